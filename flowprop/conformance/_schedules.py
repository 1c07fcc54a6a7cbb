"""Checks of noise schedules. Learnable schedules need them most."""

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
    """Checks that the log-signal-to-noise ratio (log-SNR) of a noise schedule increases with time.

    It catches a learnable schedule that is not monotone. Monotonicity must hold for all parameters
    ([NoProp](https://arxiv.org/abs/2503.24322), appendix B), so test a schedule whose parameters are far from their
    initial values.

    **Arguments:**

    - `gamma`: the callable under test, `gamma(times)`, element by element: the log-SNR `log(alpha^2 / sigma^2)`, with
      noise at t = 0 and data at t = 1.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    right = fp.conformance.ScheduleRises(fp.SigmoidNoiseSchedule(8.0).gamma)
    wrong = fp.conformance.ScheduleRises(lambda t: 8 * t + 4 * jnp.sin(6 * t))
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    gamma: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        rises = np.diff(_values(self.gamma))
        fall = np.sum(np.maximum(-rises, 0)) / np.sum(np.abs(rises))
        return self.report("share of the total variation of the log-SNR in which it falls", fall, most=1e-4)


@checked
@dataclass(frozen=True)
class ScheduleMeetsItsEnds(AbstractCheck):
    """Checks that the log-signal-to-noise ratio (log-SNR) of a schedule has the requested values at t = 0 and t = 1.

    It catches a learnable schedule whose end points move with its parameters. Test a schedule whose parameters are far
    from their initial values.

    **Arguments:**

    - `gamma`: the callable under test, `gamma(times)`, element by element: the log-SNR `log(alpha^2 / sigma^2)`, with
      noise at t = 0 and data at t = 1.
    - `ends`: the requested values at t = 0 and t = 1.

    ```python
    import flowprop as fp
    import jax

    def gamma(t):
        return 14 * t - 4

    right = fp.conformance.ScheduleMeetsItsEnds(gamma, ends=(-4.0, 10.0))
    wrong = fp.conformance.ScheduleMeetsItsEnds(gamma, ends=(-7.0, 6.0))
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    gamma: Callable[..., Any]
    ends: tuple[Real, Real]

    def measure(self, *, key: PRNGKey) -> Report:
        errors = np.abs(_values(self.gamma)[[0, -1]] - np.asarray(self.ends))
        return self.report("error at the ends of the log-SNR", np.max(errors), most=1e-3)
