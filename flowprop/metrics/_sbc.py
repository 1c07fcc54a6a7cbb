"""Simulation-based calibration."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._types import PRNGKey, Real, check_key, check_positive, checked
from ._posterior import Observations, Parameters, PosteriorLike, check_pairs, samples_of_each
from ._uniform_ranks import CalibrationTest, calibration_test, ranks_among


@checked
def sbc(
    posterior: PosteriorLike,
    theta: Parameters,
    x: Observations,
    *,
    key: PRNGKey,
    num_samples: int = 99,
    statistics: Callable[[Any, Any], Any] | None = None,
    significance: Real = 0.05,
) -> CalibrationTest:
    """Simulation-based calibration (SBC): whether each true parameter has a uniform rank among posterior samples.

    For each pair of a parameter from the prior and its simulated observation, the rank is the number of posterior
    samples that are smaller. The ranks are uniform if the posterior is exact
    ([Talts et al. 2018](https://arxiv.org/abs/1804.06788), theorem 1). Ranks that are often extreme mean that the
    posterior is too narrow; ranks that are often in the middle, that it is too wide; mostly small ones, that its values
    are too large. See [`flowprop.metrics.CalibrationTest`][] for the test.

    SBC of the parameters alone cannot reject a posterior that ignores the observation and returns the prior. Statistics
    of both can ([Modrák et al. 2023](https://arxiv.org/abs/2211.02383), section 3): give the log-likelihood if you know
    it, or use [`flowprop.metrics.tarp`][].

    **Arguments:**

    - `posterior`: the posterior to check, a [`flowprop.metrics.PosteriorLike`][].
    - `theta`: parameters drawn from the prior and not used for training, `(n, *shape)`. Some hundreds are enough.
    - `x`: one simulated observation for each parameter, `(n, *observation)`.
    - `key`: a typed key, for the samples and for ties.
    - `num_samples`: how many samples are drawn from the posterior of each observation. By default 99.
    - `statistics`: a JAX function of one parameter `shape` and one observation whose results, a scalar or a vector, are
        ranked. By default each coordinate of the parameter.
    - `significance`: the probability with which an exact posterior fails. By default 5 %.

    **Returns:** a [`flowprop.metrics.CalibrationTest`][] with one column for each statistic, which
        [`flowprop.plot.sbc`][] draws.

    **Raises:** `ValueError` if there are no pairs, their numbers differ, or they or the samples are not finite;
    `TypeError` if `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class Exact:
        \"\"\"The posterior of theta ~ N(0, 1) if x ~ N(theta, 1).\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 + np.sqrt(0.5) * jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    print(fp.metrics.sbc(Exact(), theta, x, key=key).passed)  # True
    ```
    """
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_pairs(theta, x)
    sample_key, tie_key = jax.random.split(key)
    samples = samples_of_each(posterior, x, num_samples, theta.shape[1:], sample_key)
    if statistics is None:
        own, of_samples = np.asarray(theta), samples
    else:
        own = np.asarray(jax.vmap(statistics)(theta, x))
        of_samples = np.asarray(jax.vmap(jax.vmap(statistics, (0, None)))(samples, x))
    own, of_samples = own.reshape(len(theta), -1), of_samples.reshape(len(theta), num_samples, -1)
    return calibration_test(ranks_among(own, of_samples, tie_key), num_samples, significance)
