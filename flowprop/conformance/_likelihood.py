"""Checks of log-likelihoods and of their units."""

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
    """Checks that the log-likelihood of a flow with the exact network is correct.

    It catches a mean over dimensions instead of a sum, a missing term for the change of coordinates, and a divergence
    with the wrong sign. The reference is the exact density of the flow: that of the noise after the ODE has moved it
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), theorem 1).

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `log_prob`: the callable under test, `log_prob(z1)`, from data `(n, d)` to nats `(n,)`.
    - `tolerance`: the largest allowed error of any of 128 points, in nats. By default 1e-2.

    ```python
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())
    right = fp.conformance.LogProbIsExact(exact, lambda z1: fp.log_prob(flow, z1))
    wrong = fp.conformance.LogProbIsExact(exact, lambda z1: fp.log_prob(flow, z1) / 2)
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
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
    """Checks that bits per dimension are `-log p / (d log 2)`, the mean over examples.

    It catches nats that are reported as bits, bits that are not divided by the dimension `d`, and a sum over examples
    instead of a mean. For the definition see [Theis et al. 2016](https://arxiv.org/abs/1511.01844), section 3.1.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `bits`: the callable under test, `bits(z1)`, from data `(n, d)` to one number, or to one number for each example.
    - `tolerance`: the largest allowed error of the mean, in bits per dimension. By default 1e-2.

    ```python
    import flowprop as fp
    import jax
    import numpy as np

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())


    def bits(z1):
        return -exact.log_prob(z1) / (2 * np.log(2))


    right = fp.conformance.BitsArePerDimension(exact, bits)
    wrong = fp.conformance.BitsArePerDimension(exact, lambda z1: -exact.log_prob(z1))
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    exact: Exact
    bits: Callable[..., Any]
    tolerance: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z1 = self.exact.data.sample(128, key=key)
        wanted = -self.exact.log_prob(z1).mean() / (z1.shape[1] * np.log(2))
        error = np.mean(np.asarray(self.bits(z1), float)) - wanted
        return self.report("error of the mean, in bits per dimension", np.abs(error), most=self.tolerance)
