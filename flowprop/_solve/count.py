"""The number of network calls in a solve."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import diffrax as dfx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._types import checked
from .integrator import AbstractIntegrator


@checked
def function_evaluations(solution: dfx.Solution, integrator: AbstractIntegrator) -> Int[Array, "*batch"]:
    """Count how often a solve called the network (NFE), including all stages and rejected steps.

    An explicit Runge-Kutta method of `s` stages calls the network `s n` times in `n` steps, for example Euler `n` times
    and Heun `2 n` times. If the last stage of a step is also the first stage of the next step ("first same as last"),
    it makes `(s - 1) n + 1` calls, for example Tsit5 `6 n + 1`. Such a method makes one more call for each rejection of
    the first step, and one after each jump in time that its step-size controller lists. ReversibleHeun makes `n + 1`
    calls, and one more after each jump.

    **Arguments:**

    - `solution`: the result of [`flowprop.solve`][], or of a `jax.vmap` of it.
    - `integrator`: the integrator that computed it.

    **Returns:** an integer array: a scalar, or one entry for each solve of a batch.

    **Raises:** `ValueError` for a solver whose number of calls does not follow from its number of steps, such as an
    implicit solver.

    ```python
    import diffrax as dfx
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    integrator = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    solution = fp.solve(flow, jnp.ones(2), integrator=integrator)
    print(fp.function_evaluations(solution, integrator))  # 20
    ```
    """
    steps = jnp.asarray(solution.stats["num_steps"])
    match integrator.solver:
        case dfx.AbstractERK(tableau=dfx.ButcherTableau(fsal=True, num_stages=stages)):
            return (stages - 1) * steps + solution.stats.get("num_first_stages", 1)
        case dfx.AbstractERK(tableau=dfx.ButcherTableau(num_stages=stages)):
            return stages * steps
        case dfx.AbstractSRK(tableau=tableau):
            return len(tableau.b_sol) * steps
        case dfx.Euler() | dfx.EulerHeun() | dfx.ItoMilstein() | dfx.StratonovichMilstein() | dfx.LeapfrogMidpoint():
            return steps
        case dfx.ReversibleHeun():
            return steps + solution.stats.get("num_first_stages", 1)
    raise ValueError(
        f"`integrator` uses {type(integrator.solver).__name__}, whose number of network calls does not follow from its "
        "number of steps: use an explicit solver"
    )


def count_first_stages(
    solve: Callable[..., dfx.Solution],
    solver: dfx.AbstractSolver,
    controller: dfx.AbstractStepSizeController,
    saveat: dfx.SaveAt,
) -> dfx.Solution:
    """Call `solve(stepsize_controller=controller, saveat=saveat)` and add `num_first_stages` to its statistics.

    `num_first_stages` is missing if the steps are constant, because it is then 1, and for solvers whose steps do not
    share stages, because nothing needs it.
    """
    match solver, controller:
        case dfx.AbstractERK(tableau=dfx.ButcherTableau(fsal=True)), dfx.AbstractAdaptiveStepSizeController():
            counting = _Counting(controller, first_step_evaluates=True)
        case dfx.ReversibleHeun(), dfx.AbstractAdaptiveStepSizeController():
            # The solver evaluates the field once before the first step, to make its state.
            counting = _Counting(controller, first_step_evaluates=False)
        case _:
            return solve(stepsize_controller=controller, saveat=saveat)
    solution = solve(stepsize_controller=counting, saveat=replace(saveat, controller_state=True))
    state, _, count = cast(_State, solution.controller_state)
    return replace(
        solution,
        stats={**solution.stats, "num_first_stages": count},
        controller_state=state if saveat.controller_state else None,
    )


#: The state of the wrapped controller, whether the next step evaluates its first stage, and how many steps did.
_State = tuple[PyTree, Bool[Array, ""], Int[Array, ""]]


class _Counting(dfx.AbstractStepSizeController[_State, Any]):
    """A controller that counts the steps that evaluate their first stage instead of reusing the last stage before it.

    These are all attempts at the first step and at each step after a jump. Diffrax does not count them.
    """

    controller: dfx.AbstractStepSizeController
    first_step_evaluates: bool

    def wrap(self, direction: Any) -> "_Counting":
        return replace(self, controller=self.controller.wrap(direction))

    def init(self, *args: Any, **kwargs: Any) -> tuple[Any, _State]:
        end, state = self.controller.init(*args, **kwargs)
        return end, (state, jnp.array(self.first_step_evaluates), jnp.array(0 if self.first_step_evaluates else 1))

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: _State,
    ) -> tuple[Any, Any, Any, Any, _State, dfx.RESULTS]:
        state, evaluates, count = controller_state
        keep, start, end, made_jump, state, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        evaluates_next = jnp.where(keep, made_jump, evaluates)
        return keep, start, end, made_jump, (state, evaluates_next, count + evaluates), result
