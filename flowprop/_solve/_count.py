"""What a solve costs."""

import diffrax as dfx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._types import checked
from ._integrator import AbstractIntegrator


@checked
def function_evaluations(solution: dfx.Solution, integrator: AbstractIntegrator) -> Int[Array, "*batch"]:
    """How often a solve called the network, rejected steps and all stages included.

    An explicit Runge-Kutta method of `s` stages calls it `s n` times in `n` steps, and
    `(s - 1) n + 1` times where the last stage of a step is the first of the next: Euler n, Heun 2 n,
    Tsit5 6 n + 1. (Such a method calls once more for each rejection of the very first step, and
    after each jump in time that its controller was told of; Diffrax counts neither.)

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
