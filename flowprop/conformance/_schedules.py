"""Checks of noise schedules, which matter most where they are learnt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points


def _values(gamma: Callable[..., Any]) -> np.ndarray:
    return as_points("gamma(times)", gamma(jnp.linspace(0, 1, 65)), (65,))


@checked
@dataclass(frozen=True)
class ScheduleRises(AbstractCheck):
    """The log-SNR rises with time, whatever the parameters: give a schedule whose parameters are far from the start.

    **Arguments:**

    - `gamma`: the subject's log-SNR `log(alpha^2 / sigma^2)`, noise at t = 0 and data at 1, a callable `gamma(times)`,
      element by element.
    """

    gamma: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        rises = np.diff(_values(self.gamma))
        fall = np.sum(np.maximum(-rises, 0)) / np.sum(np.abs(rises))
        return self.report("the share of its way that the log-SNR falls", fall, most=1e-4)


@checked
@dataclass(frozen=True)
class ScheduleMeetsItsEnds(AbstractCheck):
    """The log-SNR begins and ends where it was told to, whatever the parameters.

    **Arguments:**

    - `gamma`: as of [`flowprop.conformance.ScheduleRises`][].
    - `ends`: its values at t = 0 and t = 1.
    """

    gamma: Callable[..., Any]
    ends: tuple[Real, Real]

    def measure(self, *, key: PRNGKey) -> Report:
        errors = np.abs(_values(self.gamma)[[0, -1]] - np.asarray(self.ends))
        return self.report("error at the ends of the log-SNR", np.max(errors), most=1e-3)
