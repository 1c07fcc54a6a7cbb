"""Checks of log-likelihoods and of the units they come in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points
from ._exact import Exact


@checked
@dataclass(frozen=True)
class LogProbIsExact(AbstractCheck):
    """Around the exact network the log-likelihood is that of the exact pushforward of the noise.

    **Arguments:**

    - `exact`: the data and the path.
    - `log_prob`: the subject's, a callable `log_prob(z1)` from data `(n, d)` to nats `(n,)`.
    - `tolerance`: in nats.
    """

    exact: Exact
    log_prob: Callable[..., Any]
    tolerance: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z1 = self.exact.data.sample(128, key=key)
        error = as_points("log_prob(z1)", self.log_prob(z1), (128,)) - self.exact.log_prob(z1)
        return self.report("largest error of log p, in nats", np.abs(error).max(), most=self.tolerance)


@checked
@dataclass(frozen=True)
class BitsArePerDimension(AbstractCheck):
    """Bits per dimension are `-log p / (d log 2)`: neither nats, nor summed over dimensions or examples.

    **Arguments:**

    - `exact`: the data and the path.
    - `bits`: the subject's, a callable `bits(z1)` from data `(n, d)` to one number, or `(n,)`.
    - `tolerance`: in bits.
    """

    exact: Exact
    bits: Callable[..., Any]
    tolerance: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z1 = self.exact.data.sample(128, key=key)
        wanted = -self.exact.log_prob(z1).mean() / (z1.shape[1] * np.log(2))
        error = np.mean(np.asarray(self.bits(z1), float)) - wanted
        return self.report("error of the mean, in bits per dimension", np.abs(error), most=self.tolerance)
