"""Checks of a likelihood by random probes of the divergence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points
from ._exact import Exact


@checked
@dataclass(frozen=True)
class ProbesAreHeld(AbstractCheck):
    """Probes stay the same throughout a solve: with the same key, finer steps hardly change the estimate.

    Drawn anew at each evaluation they make the right-hand side noise, at which an adaptive solver rejects step after
    step. Other steps then change the estimate about half as much as another key does, however many there are.

    **Arguments:**

    - `exact`: the data and the path.
    - `log_prob`: the subject's, a callable `log_prob(z1, key, num_steps)` from data `(n, d)` to nats `(n,)`, by random
      probes from `key` and a fixed number of steps.
    - `num_steps`: so many that twice as many change little: more for a method of first order.
    """

    exact: Exact
    log_prob: Callable[..., Any]
    num_steps: int = 32

    def measure(self, *, key: PRNGKey) -> Report:
        key_data, key, other_key = jax.random.split(key, 3)
        z1 = self.exact.data.sample(128, key=key_data)

        def log_prob(key: PRNGKey, num_steps: int) -> np.ndarray:
            return as_points("log_prob(z1, key, num_steps)", self.log_prob(z1, key, num_steps), (128,))

        value = log_prob(key, self.num_steps)
        by_steps = np.std(log_prob(key, 2 * self.num_steps) - value)
        by_key = np.std(log_prob(other_key, self.num_steps) - value)
        # Where estimates hardly vary, as for exact probes, a hundredth of a nat is little.
        return self.report("change by the steps over change by the key", by_steps / max(by_key, 1e-2), most=0.3)


@checked
@dataclass(frozen=True)
class ProbesAreAveraged(AbstractCheck):
    """The mean of many estimates is the exact log-likelihood, with several probes as with one.

    A sum over probes that is never divided by their number counts the divergence several times.

    **Arguments:**

    - `exact`: the data and the path.
    - `log_prob`: the subject's, a callable `log_prob(z1, key)` from data `(n, d)` to nats `(n,)`, by several random
      probes from `key` for each example.
    - `slack`: an error of the mean that is forgiven, such as that of a solver's finite steps, in nats.
    """

    exact: Exact
    log_prob: Callable[..., Any]
    slack: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z1 = self.exact.data.sample(128, key=key)
        errors = as_points("log_prob(z1, key)", self.log_prob(z1, key), (128,)) - self.exact.log_prob(z1)
        bias = max(abs(errors.mean()) - self.slack, 0.0) * np.sqrt(128) / (errors.std() + 1e-12)
        return self.report("error of the mean estimate, in standard errors", bias, most=5)
