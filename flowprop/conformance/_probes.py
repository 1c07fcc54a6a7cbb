"""Checks of log-likelihoods that estimate the divergence with random probe vectors."""

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
    """Checks that the random probe vectors of the divergence stay the same during one solve.

    It catches probes that are drawn again at each evaluation. They make the right-hand side of the ODE noisy, and an
    adaptive solver then rejects many steps. The probes must be fixed during a solve
    ([Grathwohl et al. 2019](https://arxiv.org/abs/1810.01367), section 3.1).

    The check uses the same key with twice as many steps. With fixed probes the estimate hardly changes. With redrawn
    probes it changes about half as much as with another key, for any number of steps.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `log_prob`: the callable under test, `log_prob(z1, key, num_steps)`, from data `(n, d)` to nats `(n,)`. It draws
      its probes from `key` and takes a fixed number of steps.
    - `num_steps`: the number of steps, large enough that twice as many change little. A first-order method needs more.
      By default 32.

    ```python
    import diffrax as dfx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())


    def log_prob(z1, key, num_steps):
        probes = fp.HutchinsonDivergence(1)
        heun = fp.ODEIntegrator(dfx.Heun(), dt0=1 / num_steps)
        return fp.log_prob(flow, z1, key=key, divergence=probes, integrator=heun)


    check = fp.conformance.ProbesAreHeld(exact, log_prob)
    fp.conformance.assert_conforms([check], key=jax.random.key(0))
    ```
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
        # If the estimates hardly vary, as with exact probes, a change of a hundredth of a nat counts as small.
        return self.report("change with the steps over change with the key", by_steps / max(by_key, 1e-2), most=0.3)


@checked
@dataclass(frozen=True)
class ProbesAreAveraged(AbstractCheck):
    """Checks that a log-likelihood with several random probe vectors is unbiased.

    It catches a sum over probes that is not divided by their number, which counts the divergence several times. The
    mean of `e^T J e` over the probes `e` estimates the trace of the Jacobian `J`
    ([Hutchinson 1990](https://doi.org/10.1080/03610919008812866)).

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `log_prob`: the callable under test, `log_prob(z1, key)`, from data `(n, d)` to nats `(n,)`. It draws several
      probes from `key` for each example.
    - `slack`: an error of the mean over 128 points that is allowed in any case, in nats, such as that of the finite
      steps of a solver. By default 1e-2.

    ```python
    import diffrax as dfx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())


    def log_prob(z1, key):
        probes = fp.HutchinsonDivergence(3)
        heun = fp.ODEIntegrator(dfx.Heun(), dt0=1 / 64)
        return fp.log_prob(flow, z1, key=key, divergence=probes, integrator=heun)


    check = fp.conformance.ProbesAreAveraged(exact, log_prob)
    fp.conformance.assert_conforms([check], key=jax.random.key(0))
    ```
    """

    exact: Exact
    log_prob: Callable[..., Any]
    slack: Real = 1e-2

    def measure(self, *, key: PRNGKey) -> Report:
        z1 = self.exact.data.sample(128, key=key)
        errors = as_points("log_prob(z1, key)", self.log_prob(z1, key), (128,)) - self.exact.log_prob(z1)
        bias = max(abs(errors.mean()) - self.slack, 0.0) * np.sqrt(128) / (errors.std() + 1e-12)
        return self.report("error of the mean estimate, in standard errors", bias, most=5)
