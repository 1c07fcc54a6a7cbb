"""The probability-flow ODE."""

from collections.abc import Callable
from functools import partial

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._flow import Flow
from .._frozen import Frozen, unfrozen
from .._types import Point, PRNGKey, Real, Time, checked
from ._count import count_first_stages
from ._integrator import AbstractIntegrator, as_times, end_state


class ODEIntegrator(AbstractIntegrator):
    """The probability-flow ODE `dz/dt = v(t, z, x)`: deterministic, with a likelihood.

    `ODEIntegrator()` is Tsit5 with adaptive steps at tolerances of 1e-5;
    `ODEIntegrator(solver=dfx.Heun(), dt0=0.1)` takes ten fixed steps.

    **Arguments:**

    - `solver`: any Diffrax ODE solver.
    - `stepsize_controller`: any Diffrax controller. By default constant steps if `dt0` is given
      and `dfx.PIDController(rtol=1e-5, atol=1e-5)` if not.
    - `dt0`: the (first) step, positive; its sign is supplied. By default, for adaptive steps, 0.05.
    - `max_steps`: of one solve, after which it fails.
    - `adjoint`: how a solve is differentiated.

    **Raises:** `ValueError` if `dt0` is not positive.
    """

    solver: dfx.AbstractSolver
    stepsize_controller: dfx.AbstractStepSizeController
    dt0: Frozen
    max_steps: int | None = eqx.field(static=True)
    adjoint: dfx.AbstractAdjoint

    @checked
    def __init__(
        self,
        solver: dfx.AbstractSolver | None = None,
        stepsize_controller: dfx.AbstractStepSizeController | None = None,
        *,
        dt0: Real | Float[Array | np.ndarray, ""] | Frozen | None = None,
        max_steps: int | None = 4096,
        adjoint: dfx.AbstractAdjoint | None = None,
    ) -> None:
        dt0 = unfrozen(dt0) if isinstance(dt0, Frozen) else dt0
        if dt0 is not None and dt0 <= 0:
            raise ValueError(f"`dt0` is {dt0}: give a positive step; its sign is supplied")
        if stepsize_controller is None:
            adaptive = dt0 is None
            stepsize_controller = dfx.PIDController(rtol=1e-5, atol=1e-5) if adaptive else dfx.ConstantStepSize()
        self.solver = dfx.Tsit5() if solver is None else solver
        self.stepsize_controller = stepsize_controller
        # Not left to Diffrax, whose choice of a first step costs two evaluations.
        # An array, so that another step needs no new compilation; and no parameter of a model that holds it.
        self.dt0 = Frozen(jnp.asarray(0.05 if dt0 is None else dt0, float))
        self.max_steps = max_steps
        self.adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        return self.integrate_field(_Velocity(flow), z, x, t0, t1, saveat)

    def end_point(self, field: Callable[..., PyTree], y: PyTree, args: PyTree, t0: Time, t1: Time) -> PyTree:
        """The state at `t1` of any ODE, as of `integrate_field`."""
        return end_state(self.integrate_field(field, y, args, t0, t1))

    def integrate_field(
        self,
        field: Callable[..., PyTree],
        y: PyTree,
        args: PyTree,
        t0: Time,
        t1: Time,
        saveat: dfx.SaveAt | None = None,
        *,
        throw: bool = True,
    ) -> dfx.Solution:
        """The solution of any ODE `dy/dt = field(t, y, args)`, by this solver and these steps.

        The field is a PyTree: an adjoint differentiates in its leaves, and cannot in what a closure holds.
        By default the end alone is saved. Without `throw`, a solve that fails says so in its `result` alone.
        """
        start, end = as_times(t0, t1, y)
        solve = partial(
            dfx.diffeqsolve,
            dfx.ODETerm(field),
            self.solver,
            start,
            end,
            jnp.sign(end - start) * self.dt0.value.astype(start.dtype),
            y,
            args,
            max_steps=self.max_steps,
            adjoint=self.adjoint,
            throw=throw,
        )
        saveat = dfx.SaveAt(t1=True) if saveat is None else saveat
        return count_first_stages(solve, self.solver, self.stepsize_controller, saveat)

    def refined(self) -> "ODEIntegrator":
        """This integrator with a tenth of the tolerances or, where steps are constant, with steps half as long.

        **Raises:** `ValueError` for a step size controller other than `PIDController` or `ConstantStepSize`.
        """
        match self.stepsize_controller:
            case dfx.PIDController(rtol=rtol, atol=atol):
                return eqx.tree_at(
                    lambda ode: (ode.stepsize_controller.rtol, ode.stepsize_controller.atol),
                    self,
                    (rtol / 10, atol / 10),
                )
            case dfx.ConstantStepSize():
                steps = None if self.max_steps is None else 2 * self.max_steps
                return ODEIntegrator(
                    self.solver, self.stepsize_controller, dt0=self.dt0.value / 2, max_steps=steps, adjoint=self.adjoint
                )
        raise ValueError(
            f"`integrator` has a {type(self.stepsize_controller).__name__}, of which no finer one is known: use "
            "`dfx.PIDController` or constant steps"
        )


class _Velocity(eqx.Module):
    flow: Flow

    def __call__(self, t: Time, z: Point, x: PyTree) -> Point:
        return self.flow.estimate(t, z, x).velocity


def label_integrator() -> ODEIntegrator:
    """Ten steps of Euler: a flow of labels ends at one of a few points, and needs no more.

    Where the velocity divides by what is left of the time, Euler never looks at the last moment;
    Heun does, and is the worse for it.
    """
    return ODEIntegrator(solver=dfx.Euler(), dt0=0.1)
