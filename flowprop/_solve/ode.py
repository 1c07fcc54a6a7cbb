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
from .count import count_first_stages
from .integrator import AbstractODEIntegrator, as_times
from .steps import check_grid, has_grid, on_grid, refined


class ODEIntegrator(AbstractODEIntegrator):
    """The probability-flow ODE `dz/dt = v(t, z, x)`, which is deterministic and has a likelihood.

    ([Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 13.) Three common uses:

    - `ODEIntegrator()` is Tsit5 with adaptive steps at tolerances of 1e-5.
    - `ODEIntegrator(dfx.Heun(), dt0=0.1)` takes ten equal steps.
    - `ODEIntegrator(dfx.Heun(), dfx.StepTo(times))` steps to the times that you list.

    The times of a list are times of the flow, in [0, 1]. The same list works in both directions; a likelihood uses it
    backwards. The integrator leaves out times outside of the solve and adds the start and end of the solve. For
    example, on a flow with the span [0, 0.99] the list 0, 0.5, 1 gives the times 0, 0.5, 0.99.

    A solve computes matrix products in full precision. Otherwise some accelerators would round them to three digits,
    which is coarser than the tolerances.

    **Arguments:**

    - `solver`: any Diffrax solver of ODEs. By default `dfx.Tsit5()`.
    - `stepsize_controller`: any Diffrax step-size controller. By default constant steps if `dt0` is given, and
      `dfx.PIDController(rtol=1e-5, atol=1e-5, pcoeff=0.4, icoeff=0.3)` otherwise. With these coefficients the largest
      errors, which occur in rare samples, are smaller than with the default coefficients of Diffrax, and the
      solve needs fewer evaluations.
    - `dt0`: the size of the first step, or of all steps if they are constant, in (0, 1]. It may be traced. Give a
      positive number for both directions; the integrator sets the sign. By default 0.05 for adaptive steps. Omit it
      if the controller lists times.
    - `max_steps`: the number of steps after which a solve fails; `None` means no limit and no gradients. By default
      4096.
    - `adjoint`: how Diffrax differentiates a solve. By default `dfx.RecursiveCheckpointAdjoint()`, for reverse-mode
      gradients; `dfx.DirectAdjoint()` also has forward-mode derivatives and Hessians.
    - `event`: a `dfx.Event` that stops a solve early, for [`flowprop.solve`][]. By default none. Samples and
      likelihoods need the end of the solve, so that they treat a solve that an event stopped as a failed solve.
    - `progress_meter`: shows the progress of a solve; `dfx.TextProgressMeter()` prints it. By default none.

    **Raises:** `ValueError` if `dt0` is not in (0, 1] or is given together with a list of times, if `max_steps` is not
    positive, if the solver does not solve ODEs or gives no error estimate for adaptive steps, or if a list of times is
    not in order or not in [0, 1].

    ```python
    import diffrax as dfx
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    ten_steps = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    end = fp.solve(flow, jnp.ones(2), integrator=ten_steps).ys[0]
    print(f"{end[0]:.3f}")  # 1.105
    times = 1 - jnp.linspace(1, 0, 21) ** 2
    finer_at_the_end = fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(times))
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
                "dt0", step, above=0, at_most=1, remedy="give a step above 0 and at most 1; dt0=0.1 takes ten steps"
            )
        check_positive(max_steps=max_steps)
        if stepsize_controller is None:
            stepsize_controller = _default_controller() if step is None else dfx.ConstantStepSize()
        solver = dfx.Tsit5() if solver is None else solver
        _check_solver(solver, stepsize_controller)
        check_grid(stepsize_controller)
        if has_grid(stepsize_controller):
            if step is not None:
                raise ValueError(f"`dt0` is {step}, but `stepsize_controller` lists the times of the steps: omit `dt0`")
        elif step is None:
            # Diffrax's choice of a first step would cost two evaluations.
            step = 0.05
        self.solver = solver
        self.stepsize_controller = stepsize_controller
        # An array, so that another value needs no new compilation; `Frozen`, so that no training changes it.
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
        """Solve any ODE `dy/dt = field(t, y, args)` with this solver and these steps.

        **Arguments:**

        - `field`: a callable PyTree. An adjoint differentiates its leaves. It may miss arrays in a closure.
        - `y`: the state at `t0`, a PyTree of arrays.
        - `args`: the third argument of `field`.
        - `t0`, `t1`: the times of start and end. With `t0 > t1` the solve runs backwards.
        - `saveat`: which states to save. By default only the last.
        - `throw`: whether a solve that fails raises an error. If not, the `result` of the solution says whether it
          failed. By default `True`.

        **Returns:** Diffrax's solution.
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
        """Build this integrator with a tenth of the tolerances, or with half the step size if the steps are given.

        **Returns:** the more accurate integrator. If its steps are given, it allows twice as many of them.

        **Raises:** `ValueError` for a step-size controller that has neither tolerances nor given steps.
        """
        twice = None if self.max_steps is None else 2 * self.max_steps
        if isinstance(self.stepsize_controller, dfx.ConstantStepSize) and self.dt0 is not None:
            half = Frozen(self.dt0.value / 2)
            return self._with(self.stepsize_controller, half, twice)
        finer = refined(self.stepsize_controller)
        if finer is None:
            raise ValueError(
                f"`integrator` has the step-size controller {type(self.stepsize_controller).__name__}, for which no "
                "finer version can be built: use `dfx.PIDController`, `dfx.StepTo` or constant steps"
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
    """The default integrator for labels: ten steps of Euler.

    A flow of labels ends at one of a few points, so that more steps are not needed. On CondOT the velocity is
    (u - z)/(1 - t). Euler does not evaluate it near t = 1. Heun's second stage does, and is less accurate there.
    """
    return ODEIntegrator(solver=dfx.Euler(), dt0=0.1)


def _default_controller() -> dfx.PIDController:
    return dfx.PIDController(rtol=1e-5, atol=1e-5, pcoeff=0.4, icoeff=0.3)


def _check_solver(solver: dfx.AbstractSolver, controller: dfx.AbstractStepSizeController) -> None:
    """Raise a `ValueError` if the solver does not solve ODEs, or lacks the error estimate that the controller needs."""
    name = type(solver).__name__
    if not _solves_odes(solver.term_structure):
        raise ValueError(
            f"`solver` is {name}, which does not solve an ODE of one term: give a solver of ODEs, such as "
            "`dfx.Tsit5()`, or use `fp.SDEIntegrator` for a solver of SDEs"
        )
    adaptive = isinstance(controller, dfx.AbstractAdaptiveStepSizeController)
    if adaptive and not isinstance(solver, dfx.AbstractAdaptiveSolver):
        raise ValueError(
            f"`solver` is {name}, which has no error estimate, but `stepsize_controller` needs one to adapt the steps: "
            "give constant steps, such as dt0=0.1, or another solver, such as `dfx.Heun()`"
        )


def _solves_odes(structure: Any) -> bool:
    """Whether a solver with this term structure takes a single `dfx.ODETerm`."""
    kind = get_origin(structure) or structure
    return isinstance(kind, type) and issubclass(dfx.ODETerm, kind)
