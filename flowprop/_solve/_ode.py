"""The probability-flow ODE."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_origin

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._frozen import Frozen
from .._types import Number, Time, check_number, check_positive, checked
from ._count import count_first_stages
from ._integrator import AbstractODEIntegrator, as_times
from ._steps import check_grid, has_grid, on_grid, refined


class ODEIntegrator(AbstractODEIntegrator):
    """The probability-flow ODE `dz/dt = v(t, z, x)`: deterministic, with a likelihood.

    `ODEIntegrator()` is Tsit5 with adaptive steps at tolerances of 1e-5;
    `ODEIntegrator(dfx.Heun(), dt0=0.1)` takes ten equal steps;
    `ODEIntegrator(dfx.Heun(), dfx.StepTo(times))` steps to the times that you list.

    A list of times is one of times of the flow, in [0, 1]. It serves in both directions: a likelihood takes it
    backwards. Times outside of the solve are left out, and its start and end are put in: on a flow whose span is
    [0, 0.99] the grid 0, 0.5, 1 gives the steps 0, 0.5, 0.99.

    The matrix products of a solve are asked for in full precision: some accelerators would otherwise round them
    to three digits, more coarsely than the tolerances.

    **Arguments:**

    - `solver`: any Diffrax solver of ODEs. By default `dfx.Tsit5()`.
    - `stepsize_controller`: any Diffrax controller. By default constant steps if `dt0` is given, and
      `dfx.PIDController(rtol=1e-5, atol=1e-5, pcoeff=0.4, icoeff=0.3)` if not: with these coefficients rare samples go
      less far astray than with those of Diffrax, at fewer evaluations.
    - `dt0`: the first step, or the size of constant ones; positive, at most 1, may be traced. The integrator supplies
      its sign. By default, for adaptive steps, 0.05. With a list of times there is none.
    - `max_steps`: of one solve, after which it fails; `None` for no limit, and then no gradient.
    - `adjoint`: how a solve is differentiated. By default `dfx.RecursiveCheckpointAdjoint()`, for gradients;
      `dfx.DirectAdjoint()` also has forward-mode derivatives and Hessians.
    - `event`: a `dfx.Event` that stops a solve early, for [`flowprop.solve`][]. Samples and likelihoods need the end of
      the solve, so that they take one that an event has stopped for a failed one.
    - `progress_meter`: by default none; `dfx.TextProgressMeter()` prints how far a solve has come.

    **Raises:** `ValueError` if `dt0` is not in (0, 1], comes with a list of times, `max_steps` is not positive, the
    solver does not solve ODEs, gives no error estimate for adaptive steps, or a list of times is not in order.

    ```python
    import diffrax as dfx
    import jax.numpy as jnp
    import flowprop as fp

    ten_steps = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    finer_at_the_end = fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(1 - jnp.linspace(1, 0, 21) ** 2))
    ```
    """

    solver: dfx.AbstractSolver
    stepsize_controller: dfx.AbstractStepSizeController
    dt0: Frozen | None
    max_steps: int | None = eqx.field(static=True)
    adjoint: dfx.AbstractAdjoint
    event: dfx.Event | None
    progress_meter: dfx.AbstractProgressMeter

    @checked
    def __init__(
        self,
        solver: dfx.AbstractSolver | None = None,
        stepsize_controller: dfx.AbstractStepSizeController | None = None,
        *,
        dt0: Number | Frozen | None = None,
        max_steps: int | None = 4096,
        adjoint: dfx.AbstractAdjoint | None = None,
        event: dfx.Event | None = None,
        progress_meter: dfx.AbstractProgressMeter | None = None,
    ) -> None:
        step: Any = dt0.value if isinstance(dt0, Frozen) else dt0
        if step is not None:
            check_number(
                "dt0", step, above=0, at_most=1, remedy="a step is above 0 and at most 1; ten steps are dt0=0.1"
            )
        check_positive(max_steps=max_steps)
        if stepsize_controller is None:
            stepsize_controller = _default_controller() if step is None else dfx.ConstantStepSize()
        solver = dfx.Tsit5() if solver is None else solver
        _check_solver(solver, stepsize_controller)
        check_grid(stepsize_controller)
        if has_grid(stepsize_controller):
            if step is not None:
                raise ValueError(f"`dt0` is {step}, but `stepsize_controller` lists the times to step to: leave it out")
        elif step is None:
            # Not left to Diffrax, whose choice of a first step costs two evaluations.
            step = 0.05
        self.solver = solver
        self.stepsize_controller = stepsize_controller
        # An array, so that another step needs no new compilation; and no parameter of a model that holds it.
        self.dt0 = None if step is None else Frozen(jnp.asarray(step, float))
        self.max_steps = max_steps
        self.adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
        self.event = event
        self.progress_meter = dfx.NoProgressMeter() if progress_meter is None else progress_meter

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

        The arguments are those of [`flowprop.AbstractODEIntegrator`][]`.integrate_field`.
        """
        start, end = as_times(t0, t1, y)
        solve = partial(
            dfx.diffeqsolve,
            dfx.ODETerm(field),
            self.solver,
            start,
            end,
            None if self.dt0 is None else jnp.sign(end - start) * self.dt0.value.astype(start.dtype),
            y,
            args,
            max_steps=self.max_steps,
            adjoint=self.adjoint,
            event=self.event,
            progress_meter=self.progress_meter,
            throw=throw,
        )
        saveat = dfx.SaveAt(t1=True) if saveat is None else saveat
        with jax.default_matmul_precision("highest"):
            return count_first_stages(solve, self.solver, on_grid(self.stepsize_controller), saveat)

    def refined(self) -> "ODEIntegrator":
        """This integrator with a tenth of the tolerances or, where steps are given, with steps half as long.

        **Raises:** `ValueError` for a step size controller that has neither tolerances nor given steps.
        """
        twice = None if self.max_steps is None else 2 * self.max_steps
        if isinstance(self.stepsize_controller, dfx.ConstantStepSize) and self.dt0 is not None:
            half = Frozen(self.dt0.value / 2)
            return self._with(self.stepsize_controller, half, twice)
        finer = refined(self.stepsize_controller)
        if finer is None:
            raise ValueError(
                f"`integrator` has a {type(self.stepsize_controller).__name__}, of which no finer one is known: use "
                "`dfx.PIDController`, `dfx.StepTo` or constant steps"
            )
        return self._with(finer, self.dt0, twice if has_grid(finer) else self.max_steps)

    def _with(
        self, controller: dfx.AbstractStepSizeController, dt0: Frozen | None, max_steps: int | None
    ) -> "ODEIntegrator":
        return ODEIntegrator(
            self.solver,
            controller,
            dt0=dt0,
            max_steps=max_steps,
            adjoint=self.adjoint,
            event=self.event,
            progress_meter=self.progress_meter,
        )

    def __str__(self) -> str:
        solver, controller = (eqx.tree_pformat(part, width=1000) for part in (self.solver, self.stepsize_controller))
        return f"{solver}, {controller}" + ("" if self.dt0 is None else f", first step {float(self.dt0.array):g}")


def label_integrator() -> ODEIntegrator:
    """Ten steps of Euler: a flow of labels ends at one of a few points, and needs no more.

    Where the velocity divides by what is left of the time, Euler never looks at the last moment;
    Heun does, and is the worse for it.
    """
    return ODEIntegrator(solver=dfx.Euler(), dt0=0.1)


def _default_controller() -> dfx.PIDController:
    return dfx.PIDController(rtol=1e-5, atol=1e-5, pcoeff=0.4, icoeff=0.3)


def _check_solver(solver: dfx.AbstractSolver, controller: dfx.AbstractStepSizeController) -> None:
    """Raise a `ValueError` for a solver of other equations, or without the error estimate that a controller needs."""
    name = type(solver).__name__
    if not _solves_odes(solver.term_structure):
        raise ValueError(
            f"`solver` is {name}, which does not solve an ODE of one term: give one that does, such as `dfx.Tsit5()`; "
            "a solver of SDEs is for `fp.SDEIntegrator`"
        )
    adaptive = isinstance(controller, dfx.AbstractAdaptiveStepSizeController)
    if adaptive and not isinstance(solver, dfx.AbstractAdaptiveSolver):
        raise ValueError(
            f"`solver` is {name}, which estimates no error, and `stepsize_controller` adapts steps to the error: give "
            "constant steps, such as dt0=0.1, or another solver, such as `dfx.Heun()`"
        )


def _solves_odes(structure: Any) -> bool:
    """Whether a solver that needs terms of this structure takes a single `dfx.ODETerm`."""
    kind = get_origin(structure) or structure
    return isinstance(kind, type) and issubclass(dfx.ODETerm, kind)
