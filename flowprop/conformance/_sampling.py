"""Checks of samples and of their end points."""

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
    """Checks that samples of a flow with the exact network have the correct mean and covariance.

    It catches the drift of a reverse SDE that is integrated without its noise, as if it were the probability-flow ODE.
    The samples then shrink: `N(0, 1)` data come out with standard deviation `alpha(0) / alpha(1)`. The two equations
    are in [Song et al. 2021](https://arxiv.org/abs/2011.13456), equations 6 and 13.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `sample`: the callable under test, `sample(num_samples, key)`. It returns samples `(num_samples, d)`.
    - `num_samples`: how many samples to draw. By default 2,000.
    - `slack`: an error of each mean and covariance that is allowed in any case, such as the bias of the finite steps of
      an SDE, in the units of the mean or the covariance. By default 0.

    ```python
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())


    def sample(num_samples, key):
        return fp.sample(flow, num_samples, key=key)


    right = fp.conformance.SamplesHaveMoments(exact, sample)
    wrong = fp.conformance.SamplesHaveMoments(exact, lambda n, key: sample(n, key) / 2)
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
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
        # The standard errors are estimated from the samples.
        deviations = [
            np.maximum(np.abs(values.mean(axis=0) - wanted) - self.slack, 0) / (values.std(axis=0) + 1e-12)
            for values, wanted in ((samples, mean), (products, covariance))
        ]
        worst = max(np.max(deviation) for deviation in deviations) * np.sqrt(self.num_samples)
        return self.report("largest error of moments, in standard errors", worst, most=5)


@checked
@dataclass(frozen=True)
class EndPointsAreExact(AbstractCheck):
    """Checks that the ODE of a flow with the exact network moves each noise point to the correct end point.

    It catches samples that stay in the coordinates of the path: if `alpha(1) < 1`, data are `z(1) / alpha(1)`. It also
    catches any other error of the integration. The ODE is the probability-flow ODE
    ([Song et al. 2021](https://arxiv.org/abs/2011.13456), equation 13).

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `transport`: the callable under test, `transport(z0)`, from noise `(n, d)` to data coordinates `(n, d)`.
    - `tolerance`: the largest allowed error of any coordinate of 128 points, in the units of the data. By default 1e-2.

    ```python
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    velocity = jax.vmap(exact.velocity, (None, 0))


    @jax.jit
    def transport(z0, num_steps=100):  # the midpoint method
        def step(i, z):
            t, h = i / num_steps, 1 / num_steps
            return z + h * velocity(t + h / 2, z + h / 2 * velocity(t, z))

        return jax.lax.fori_loop(0, num_steps, step, z0)


    right = fp.conformance.EndPointsAreExact(exact, transport)
    wrong = fp.conformance.EndPointsAreExact(exact, lambda z0: 0.9 * transport(z0))
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    exact: Exact
    transport: Callable[..., Any]
    tolerance: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z0 = self.exact.draw_noise(128, key=key)
        error = as_points("transport(z0)", self.transport(z0), z0.shape) - self.exact.transport(z0)
        return self.report("largest error of a coordinate of an end point", np.abs(error).max(), most=self.tolerance)
