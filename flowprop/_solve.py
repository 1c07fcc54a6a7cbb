"""Integrating a flow with Diffrax: how, from where to where, and at what cost.

The only room that knows Diffrax.
"""

import abc
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ._flow import Flow
from ._types import Point, PRNGKey, Real, Time, check_key, check_shape, checked


class AbstractIntegrator(eqx.Module):
    """How a flow is integrated: a Diffrax solver and its steps."""

    solver: eqx.AbstractVar[dfx.AbstractSolver]

    @abc.abstractmethod
    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        """One example's solution from `t0` to `t1`."""


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
    dt0: Float[Array | np.ndarray, ""]
    max_steps: int | None = eqx.field(static=True)
    adjoint: dfx.AbstractAdjoint

    @checked
    def __init__(
        self,
        solver: dfx.AbstractSolver | None = None,
        stepsize_controller: dfx.AbstractStepSizeController | None = None,
        *,
        dt0: Real | Float[Array | np.ndarray, ""] | None = None,
        max_steps: int | None = 4096,
        adjoint: dfx.AbstractAdjoint | None = None,
    ) -> None:
        if dt0 is not None and dt0 <= 0:
            raise ValueError(f"`dt0` is {dt0}: give a positive step; its sign is supplied")
        if stepsize_controller is None:
            adaptive = dt0 is None
            stepsize_controller = dfx.PIDController(rtol=1e-5, atol=1e-5) if adaptive else dfx.ConstantStepSize()
        self.solver = dfx.Tsit5() if solver is None else solver
        self.stepsize_controller = stepsize_controller
        # Not left to Diffrax, whose choice of a first step costs two evaluations.
        # An array, so that another step needs no new compilation.
        self.dt0 = np.asarray(0.05 if dt0 is None else dt0, float)
        self.max_steps = max_steps
        self.adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        return self._solve(lambda t, z, x: flow.estimate(t, z, x).velocity, z, x, t0, t1, saveat)

    def end_point(self, field: Callable[..., PyTree], y: PyTree, args: PyTree, t0: Time, t1: Time) -> PyTree:
        """The state at `t1` of any ODE `dy/dt = field(t, y, args)`, by this solver and these steps."""
        return _end(self._solve(field, y, args, t0, t1, dfx.SaveAt(t1=True)))

    def _solve(
        self, field: Callable[..., PyTree], y: PyTree, args: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt
    ) -> dfx.Solution:
        start, end = _times(t0, t1, y)
        return dfx.diffeqsolve(
            dfx.ODETerm(field),
            self.solver,
            start,
            end,
            jnp.sign(end - start) * self.dt0.astype(start.dtype),
            y,
            args,
            saveat=saveat,
            stepsize_controller=self.stepsize_controller,
            max_steps=self.max_steps,
            adjoint=self.adjoint,
        )


class SDEIntegrator(AbstractIntegrator):
    """The reverse SDE `dz = (v - g^2/(2 sigma) eps) dt + g dW`, in equal steps.

    Its marginals are those of the ODE (Song et al. 2021, appendix D), so that it samples the same
    distribution; `g` is the path's. It has no likelihood and runs towards the data only.

    **Arguments:**

    - `num_steps`: how many steps from the start of the solve to its end.
    - `solver`: any Diffrax SDE solver. The noise is additive, so that Ito and Stratonovich agree.

    **Raises:** `ValueError` if `num_steps` is not positive.
    """

    num_steps: int = eqx.field(static=True)
    solver: dfx.AbstractSolver

    @checked
    def __init__(self, num_steps: int = 200, *, solver: dfx.AbstractSolver | None = None) -> None:
        if num_steps < 1:
            raise ValueError(f"`num_steps` is {num_steps}: give at least one step")
        self.num_steps = num_steps
        self.solver = dfx.Euler() if solver is None else solver

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        if key is None:
            raise ValueError("`key` is None: an SDE draws random numbers, so give `jax.random.key(seed)`")

        def drift(t: Time, z: Point, x: PyTree) -> Point:
            estimate = flow.estimate(t, z, x)
            return estimate.velocity - flow.path.diffusion(t)[1] * estimate.noise

        def diffusion(t: Time, z: Point, x: PyTree) -> lx.AbstractLinearOperator:
            return lx.IdentityLinearOperator(structure) * flow.path.diffusion(t)[0]

        structure = jax.ShapeDtypeStruct(z.shape, z.dtype)
        start, end = _times(t0, t1, z)
        # No step is ever rejected, so that increments need not fit into a tree.
        brownian = dfx.UnsafeBrownianPath(structure, key, _levy_area(self.solver))
        return dfx.diffeqsolve(
            dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(diffusion, brownian)),
            self.solver,
            start,
            end,
            None,
            z,
            x,
            saveat=saveat,
            # Adding up equal steps would, by rounding, now and then need one more.
            stepsize_controller=dfx.StepTo(ts=jnp.linspace(start, end, self.num_steps + 1)),
            max_steps=self.num_steps,
            adjoint=dfx.DirectAdjoint(),
        )


def _times(t0: Time, t1: Time, y: PyTree) -> tuple[Array, Array]:
    dtype = jnp.result_type(*jax.tree.leaves(y))
    return jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)


def _levy_area(solver: dfx.AbstractSolver) -> Any:
    if not isinstance(solver, dfx.AbstractSRK):
        return dfx.BrownianIncrement
    areas = (dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea)
    return next(area for area in areas if issubclass(area, solver.minimal_levy_area))


@checked
def solve(
    flow: Flow,
    z: Point,
    x: PyTree = None,
    *,
    t0: Real | None = None,
    t1: Real | None = None,
    saveat: dfx.SaveAt | None = None,
    integrator: AbstractIntegrator | None = None,
    key: PRNGKey | None = None,
) -> dfx.Solution:
    """One example's path through a flow, in path coordinates; use `jax.vmap` for more.

    **Arguments:**

    - `flow`: the flow.
    - `z`: where the path begins, of the flow's `shape`.
    - `x`: the condition that the network takes.
    - `t0`, `t1`: from when to when, within the flow's span; `t0 > t1` runs back to noise. By
      default the span itself, [0, 1] wherever the velocity is finite there.
    - `saveat`: what to keep: the end by default, a trajectory by `dfx.SaveAt(ts=...)`, a continuous
      one by `dfx.SaveAt(dense=True)`.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
    - `key`: for an SDE.

    **Returns:** Diffrax's solution, with its statistics and result code. See also
    [`flowprop.function_evaluations`][].

    **Raises:** `ValueError` if `z` has the wrong shape, a time lies outside of the span, or an SDE
    comes without a key.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    z = jnp.asarray(z)
    check_shape("z", z, flow.shape, "the flow's `shape` is that of one example; use `jax.vmap` for a batch")
    start, end = flow.span
    t0, t1 = start if t0 is None else t0, end if t1 is None else t1
    for name, t in (("t0", t0), ("t1", t1)):
        if not start <= t <= end:
            raise ValueError(
                f"`{name}` is {t}, outside of the flow's span [{start}, {end}] where its velocity is finite"
            )
    if t0 >= t1 and isinstance(integrator, SDEIntegrator):
        raise ValueError(f"`t0` is {t0} and `t1` {t1}: the reverse SDE runs from noise to data, so give t0 < t1")
    if key is not None:
        check_key("key", key)
    saveat = dfx.SaveAt(t1=True) if saveat is None else saveat
    return _solve(integrator, flow, z, x, *_times(t0, t1, z), saveat, key)


@eqx.filter_jit
def _solve(integrator: AbstractIntegrator, *args: PyTree) -> dfx.Solution:
    return integrator.integrate(*args)


def _end(solution: dfx.Solution) -> PyTree:
    return jax.tree.map(lambda saved: saved[0], solution.ys)


def transport(flow: Flow, z: Point, x: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None) -> Point:
    """One example from noise to data, in data coordinates.

    Where the flow's span ends before 1, one evaluation of the target makes the last stretch.
    """
    start, end = flow.span
    z = _end(integrator.integrate(flow, z, x, start, end, dfx.SaveAt(t1=True), key))
    return flow.estimate(end, z, x).target if end < 1 else z / flow.path.alpha(end)


@checked
def function_evaluations(solution: dfx.Solution, integrator: AbstractIntegrator) -> Int[Array, "*batch"]:
    """How often a solve called the network, rejected steps and all stages included.

    An explicit Runge-Kutta method of `s` stages calls it `s n` times in `n` steps, and
    `(s - 1) n + 1` times where the last stage of a step is the first of the next: Euler n, Heun 2 n,
    Tsit5 6 n + 1. (Such a method calls once more for each rejection of the very first step,
    which Diffrax does not count.)

    **Arguments:**

    - `solution`: of [`flowprop.solve`][], or of a `jax.vmap` of it.
    - `integrator`: the one that made it.

    **Returns:** an integer, or one for each solve of a batch.

    **Raises:** `ValueError` for a solver whose number of calls its steps do not determine, such as
    an implicit one.
    """
    per_step, at_start = _calls(integrator.solver)
    return per_step * jnp.asarray(solution.stats["num_steps"]) + at_start


def _calls(solver: dfx.AbstractSolver) -> tuple[int, int]:
    match solver:
        case dfx.AbstractRungeKutta(tableau=dfx.ButcherTableau(implicit=False) as tableau):
            return tableau.num_stages - tableau.fsal, int(tableau.fsal)
        case dfx.AbstractSRK():
            return len(solver.tableau.b_sol), 0
        case dfx.Euler() | dfx.EulerHeun() | dfx.ItoMilstein() | dfx.StratonovichMilstein() | dfx.LeapfrogMidpoint():
            return 1, 0
        case dfx.ReversibleHeun():
            return 1, 1
    raise ValueError(
        f"`integrator` uses {type(solver).__name__}, whose calls of the network its steps do not determine: "
        "an explicit solver's can be counted"
    )


def label_integrator() -> ODEIntegrator:
    """Ten steps of Euler: a flow of labels ends at one of a few points, and needs no more.

    Where the velocity divides by what is left of the time, Euler never looks at the last moment;
    Heun does, and is the worse for it.
    """
    return ODEIntegrator(solver=dfx.Euler(), dt0=0.1)
