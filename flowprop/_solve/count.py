"""What a solve costs."""

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
    """How often a solve called the network, rejected steps and all stages included.

    An explicit Runge-Kutta method of `s` stages calls it `s n` times in `n` steps, and
    `(s - 1) n + 1` times where the last stage of a step is the first of the next: Euler n, Heun 2 n,
    Tsit5 6 n + 1. Such a method calls once more for each rejection of the very first step, and after
    each jump in time that its controller was told of. ReversibleHeun calls n + 1 times, and once more after each jump.

    **Arguments:**

    - `solution`: of [`flowprop.solve`][], or of a `jax.vmap` of it.
    - `integrator`: the one that made it.

    **Returns:** an integer, or one for each solve of a batch.

    **Raises:** `ValueError` for a solver whose number of calls its steps do not determine, such as
    an implicit one.
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
        f"`integrator` uses {type(integrator.solver).__name__}, whose calls of the network its steps do not determine: "
        "an explicit solver's can be counted"
    )


def count_first_stages(
    solve: Callable[..., dfx.Solution],
    solver: dfx.AbstractSolver,
    controller: dfx.AbstractStepSizeController,
    saveat: dfx.SaveAt,
) -> dfx.Solution:
    """`solve(stepsize_controller=controller, saveat=saveat)`, with `num_first_stages` in its statistics.

    The number is 1 and left out where steps are constant, and not asked for where they share no stage.
    """
    match solver, controller:
        case dfx.AbstractERK(tableau=dfx.ButcherTableau(fsal=True)), dfx.AbstractAdaptiveStepSizeController():
            counting = _Counting(controller, first_step_evaluates=True)
        case dfx.ReversibleHeun(), dfx.AbstractAdaptiveStepSizeController():
            # Its state is made before the first step, by one evaluation.
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


#: The controller's own, whether the next step evaluates its first stage, and how many have.
_State = tuple[PyTree, Bool[Array, ""], Int[Array, ""]]


class _Counting(dfx.AbstractStepSizeController[_State, Any]):
    """A controller that counts the steps which evaluate their first stage instead of taking it over.

    These are the attempts at the very first step, and at each that follows a jump: Diffrax does not count them.
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
