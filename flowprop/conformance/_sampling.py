"""Checks of where a flow's samples end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points
from ._exact import Exact


@checked
@dataclass(frozen=True)
class SamplesHaveMoments(AbstractCheck):
    """Around the exact network samples have the mean and the covariance of the exact pushforward.

    Whoever integrates a reverse SDE's drift without its noise gets data that shrink: `N(0, 1)` comes out with
    standard deviation `alpha(0) / alpha(1)`.

    **Arguments:**

    - `exact`: the data and the path.
    - `sample`: the subject's, a callable `sample(num_samples, key)` that returns `(num_samples, d)`.
    - `num_samples`: how many.
    - `slack`: a deviation that is forgiven, such as the bias of an SDE's finite steps.
    """

    exact: Exact
    sample: Callable[..., Any]
    num_samples: int = 2_000
    slack: Real = 0.0

    def measure(self, *, key: PRNGKey) -> Report:
        mean, covariance = self.exact.moments()
        samples = as_points(
            "sample(num_samples, key)", self.sample(self.num_samples, key), (self.num_samples, len(mean))
        )
        centred = samples - samples.mean(axis=0)
        products = centred[:, :, None] * centred[:, None, :]
        # Standard errors by the samples themselves.
        deviations = [
            np.maximum(np.abs(values.mean(axis=0) - wanted) - self.slack, 0) / (values.std(axis=0) + 1e-12)
            for values, wanted in ((samples, mean), (products, covariance))
        ]
        worst = max(np.max(deviation) for deviation in deviations) * np.sqrt(self.num_samples)
        return self.report("largest deviation of mean or covariance, in standard errors", worst, most=5)


@checked
@dataclass(frozen=True)
class EndPointsAreExact(AbstractCheck):
    """Around the exact network each point of noise ends where the ODE carries it.

    **Arguments:**

    - `exact`: the data and the path.
    - `transport`: the subject's, a callable `transport(z0)` from noise `(n, d)` to data coordinates `(n, d)`.
    - `tolerance`: of the distance.
    """

    exact: Exact
    transport: Callable[..., Any]
    tolerance: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z0 = self.exact.draw_noise(128, key=key)
        error = as_points("transport(z0)", self.transport(z0), z0.shape) - self.exact.transport(z0)
        return self.report("largest distance to the exact end point", np.abs(error).max(), most=self.tolerance)
