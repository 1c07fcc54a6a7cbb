"""A check of the time features of a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._types import PRNGKey, checked
from ._check import AbstractCheck, Report


@checked
@dataclass(frozen=True)
class TimesAreToldApart(AbstractCheck):
    """Checks that the fastest time feature of a network completes at least one period over [0, 1].

    It catches the frequencies of a transformer, `10000^(-2i/d)`, applied to t in [0, 1]. They are meant for integer
    positions ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.5). On [0, 1] they change so slowly
    that the network can hardly distinguish times.

    **Arguments:**

    - `features`: the callable under test, `features(t)`, from one time to a vector.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp


    def of_positions(t):
        return jnp.sin(t / 10_000 ** jnp.linspace(0, 1, 8))


    right = fp.conformance.TimesAreToldApart(fp.nn.SinusoidalFeatures())
    wrong = fp.conformance.TimesAreToldApart(of_positions)
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    features: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        values = np.array([np.ravel(self.features(jnp.asarray(t, float))) for t in np.linspace(0, 1, 100)], float)
        way, height = np.abs(np.diff(values, axis=0)).sum(axis=0), np.ptp(values, axis=0)
        # One period covers the range twice. A (nearly) constant feature has no period.
        periods = np.max(way / np.maximum(2 * height, 1e-6))
        return self.report("periods of the fastest feature", periods, least=0.99)
