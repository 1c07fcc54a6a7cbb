"""The posterior predictive check."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._types import PRNGKey, Real, check_key, check_positive, checked
from ._posterior import PosteriorLike
from ._uniform_ranks import holm


class PredictiveCheck(NamedTuple):
    """The result of [`flowprop.metrics.posterior_predictive_check`][]; [`flowprop.plot.predictive`][] draws it.

    **Arguments:**

    - `simulated`: the statistics of the simulations, `(n, statistics)`.
    - `observed`: the statistics of the observation, `(statistics,)`.
    - `num_failed`: how many simulations were left out because they were not finite.
    - `quantile`: the fraction of the simulations whose statistic is smaller, `(statistics,)`.
    - `p_value`: the two-sided tail probability of the observation among the simulations, `(statistics,)`.
    - `adjusted_p_value`: the same for the most extreme of all statistics (Holm), `(statistics,)`.
    - `significance`: the adjusted p-value below which the check fails.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp


    class Posterior:
        def sample(self, x, num_samples, *, key):
            return x + jax.random.normal(key, (num_samples, 1))


    def simulator(theta, *, key):
        return jnp.exp(theta + jax.random.normal(key, theta.shape))


    # The posterior takes the observation for its logarithm.
    check = fp.metrics.posterior_predictive_check(
        Posterior(), simulator, jnp.array([9.0]), key=jax.random.key(0)
    )
    print(check.passed, check.quantile)  # False [0.]
    ```
    """

    simulated: Float[np.ndarray, "n statistics"]
    observed: Float[np.ndarray, " statistics"]
    num_failed: int
    quantile: Float[np.ndarray, " statistics"]
    p_value: Float[np.ndarray, " statistics"]
    adjusted_p_value: Float[np.ndarray, " statistics"]
    significance: float

    @property
    def passed(self) -> bool:
        """Whether the simulations resemble the observation in all statistics."""
        return bool(np.all(self.adjusted_p_value > self.significance))

    def __str__(self) -> str:
        worst = int(np.argmin(self.adjusted_p_value))
        return (
            f"{'passed' if self.passed else 'failed'} at {self.significance:.2g} with {len(self.simulated)} "
            f"simulations: smallest adjusted p-value {self.adjusted_p_value[worst]:.2g} (statistic {worst})"
        )


@checked
def posterior_predictive_check(
    posterior: PosteriorLike,
    simulator: Callable[..., Any],
    observation: Shaped[Array | np.ndarray, "*observation"],
    *,
    key: PRNGKey,
    num_samples: int = 1000,
    statistics: Callable[[Any], Any] | None = None,
    significance: Real = 0.05,
) -> PredictiveCheck:
    """The posterior predictive check: whether simulations from the posterior resemble the observation.

    Parameters are drawn from the posterior, and one observation is simulated from each. The two-sided p-value of a
    statistic is `2 min(k + 1, n - k + 1) / (n + 1)` if k of n simulations have a smaller one
    ([Gelman et al. 1996](https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm)). The check finds a wrong
    simulator as well as a wrong posterior. It is not a test with exact probabilities: the posterior has seen the
    observation, so p-values are larger than uniform ones, and a posterior that is too wide passes. Small p-values are
    therefore a clear sign of an error, and large ones prove little.

    **Arguments:**

    - `posterior`: the posterior to check, a [`flowprop.metrics.PosteriorLike`][].
    - `simulator`: a function of parameters `(n, *shape)` and `key=` that returns observations `(n, *observation)`.
    - `observation`: the observation, without a batch axis.
    - `key`: a typed key, for the posterior and the simulator.
    - `num_samples`: how many parameters are drawn and simulated. By default 1,000.
    - `statistics`: a JAX function of one observation that returns a scalar or a vector. By default each coordinate of
        the observation.
    - `significance`: the adjusted p-value below which the check fails. By default 5 %.

    **Returns:** a [`flowprop.metrics.PredictiveCheck`][].

    **Raises:** `ValueError` if the simulations have another shape than the observation, or none is finite; `TypeError`
    if `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp


    class Exact:
        \"\"\"The posterior of theta ~ N(0, 1) if x ~ N(theta, 1).\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 + jnp.sqrt(0.5) * jax.random.normal(key, (num_samples, 1))


    def simulator(theta, *, key):
        return theta + jax.random.normal(key, theta.shape)


    check = fp.metrics.posterior_predictive_check(
        Exact(), simulator, jnp.array([0.7]), key=jax.random.key(0)
    )
    print(check.passed, check.num_failed)  # True 0
    ```
    """
    check_key("key", key)
    check_positive(num_samples=num_samples)
    posterior_key, simulator_key = jax.random.split(key)
    theta = posterior.sample(observation, num_samples, key=posterior_key)
    simulations = np.asarray(simulator(theta, key=simulator_key))
    wanted = (num_samples, *observation.shape)
    if simulations.shape != wanted:
        raise ValueError(f"`simulator` gave shape {simulations.shape} where {wanted} is needed, as `observation` says")
    simulated, observed = (
        np.asarray(rows if statistics is None else jax.vmap(statistics)(rows), np.float64).reshape(len(rows), -1)
        for rows in (simulations, observation[None])
    )
    finite = np.isfinite(simulated).all(axis=1)
    if not finite.any() or not np.isfinite(observed).all():
        raise ValueError("`observation` or all simulations are not finite: correct them or the `statistics`")
    simulated, observed = simulated[finite], observed[0]
    below, above = np.sum(simulated < observed, axis=0), np.sum(simulated > observed, axis=0)
    p_value = np.minimum(2 * (len(simulated) - np.maximum(below, above) + 1) / (len(simulated) + 1), 1)
    failed = int(np.sum(~finite))
    return PredictiveCheck(
        simulated, observed, failed, below / len(simulated), p_value, holm(p_value), float(significance)
    )
