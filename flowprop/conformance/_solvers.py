"""Checks of solvers: their order, their tolerance, what they say they cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points
from ._exact import Exact
from ._instruments import Tally


def _error(exact: Exact, solve: Callable[..., Any], setting: Real, key: PRNGKey) -> float:
    z0 = exact.draw_noise(128, key=key)
    error = as_points("solve(z0, ...)", solve(z0, setting), z0.shape) - exact.transport(z0)
    return float(np.sqrt(np.mean(error**2)))


@checked
@dataclass(frozen=True)
class SolverHasOrder(AbstractCheck):
    """Half the step divides the error by `2^order`, or more.

    A corrector that is given a derivative in place of the coefficient falls to first order, or to none.

    **Arguments:**

    - `exact`: the data and the path.
    - `solve`: the subject's, a callable `solve(z0, num_steps)` from noise `(n, d)` to data coordinates `(n, d)`.
    - `order`: of the method: 1 for Euler, 2 for Heun and midpoint, 4 for the classical Runge-Kutta method.
    - `num_steps`: of the coarser solve. Errors must stay above rounding: few steps for a high order.
    """

    exact: Exact
    solve: Callable[..., Any]
    order: int
    num_steps: int = 32

    def measure(self, *, key: PRNGKey) -> Report:
        coarse, fine = (_error(self.exact, self.solve, self.num_steps * factor, key) for factor in (1, 2))
        return self.report("order of convergence", np.log2(coarse / max(fine, 1e-12)), least=self.order - 0.4)


@checked
@dataclass(frozen=True)
class ToleranceIsHeeded(AbstractCheck):
    """A smaller tolerance makes a smaller error. One check for each solver that takes a tolerance.

    **Arguments:**

    - `exact`: the data and the path.
    - `solve`: the subject's, a callable `solve(z0, tolerance)` from noise `(n, d)` to data coordinates `(n, d)`.
    - `tolerances`: a loose one and a tight one.
    """

    exact: Exact
    solve: Callable[..., Any]
    tolerances: tuple[Real, Real] = (1e-1, 1e-5)

    def measure(self, *, key: PRNGKey) -> Report:
        loose, tight = (_error(self.exact, self.solve, tolerance, key) for tolerance in self.tolerances)
        return self.report("what the tight tolerance divides the error by", loose / max(tight, 1e-12), least=4)


@checked
@dataclass(frozen=True)
class EvaluationsAreCounted(AbstractCheck):
    """The number of function evaluations is the number of calls of the network.

    It is not the number of steps: a step has several stages, and rejected steps call too.

    **Arguments:**

    - `solve`: the subject's, a callable `solve(counted)` that puts `counted(network)` in place of its network, solves
      for one example, and returns the number of evaluations that the library reports.
    """

    solve: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        tally = Tally()
        reported = int(np.asarray(self.solve(tally.counted)).item())
        if not tally.count:
            raise ValueError("`solve(counted)` never called `counted(network)`: put it in place of the network")
        return self.report("evaluations reported", reported, least=tally.count, most=tally.count)
