"""The expected coverage of a posterior's highest-density regions."""

import jax
import numpy as np

from .._types import PRNGKey, Real, check_key, check_positive, checked
from ._posterior import Observations, Parameters, PosteriorLike, check_pairs, log_prob_of_each, samples_of_each
from ._uniform_ranks import CalibrationTest, calibration_test, ranks_among


@checked
def expected_coverage(
    posterior: PosteriorLike,
    theta: Parameters,
    x: Observations,
    *,
    key: PRNGKey,
    num_samples: int = 99,
    significance: Real = 0.05,
) -> CalibrationTest:
    """The expected coverage: how often the posterior's highest-density region of each level contains the parameter.

    The rank of a true parameter is the number of posterior samples with a higher density. The fraction of ranks up to a
    level is the coverage of the region of this level; it equals the level if the posterior is exact
    ([Hermans et al. 2022](https://arxiv.org/abs/2110.06581);
    [Deistler et al. 2022](https://arxiv.org/abs/2210.04815), appendix A.1). A curve below the diagonal means that the
    posterior is too narrow.

    The check sees only the sizes of the regions. It cannot reject a posterior that returns the prior; use
    [`flowprop.metrics.tarp`][] too.

    **Arguments:**

    - `posterior`: the posterior to check, a [`flowprop.metrics.PosteriorLike`][] with `log_prob`. Its densities may
        have an unknown factor that depends on the observation only.
    - `theta`: parameters drawn from the prior and not used for training, `(n, *shape)`. Some hundreds are enough.
    - `x`: one simulated observation for each parameter, `(n, *observation)`.
    - `key`: a typed key, for the samples and for ties.
    - `num_samples`: how many samples are drawn from the posterior of each observation. By default 99. The density is
        computed for each.
    - `significance`: the probability with which an exact posterior fails. By default 5 %.

    **Returns:** a [`flowprop.metrics.CalibrationTest`][] with one column, which [`flowprop.plot.coverage`][] draws.

    **Raises:** `ValueError` if there are no pairs, their numbers differ, or they, the samples or the densities are not
    finite; `TypeError` if `key` is not one typed key or the posterior has no density.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class Exact:
        \"\"\"The posterior of theta ~ N(0, 1) if x ~ N(theta, 1).\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 + np.sqrt(0.5) * jax.random.normal(key, (num_samples, 1))

        def log_prob(self, theta, x):
            return -((theta[:, 0] - x[0] / 2) ** 2)


    theta, noise, key = jax.random.split(jax.random.key(1), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    print(fp.metrics.expected_coverage(Exact(), theta, x, key=key).passed)  # True
    ```
    """
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_pairs(theta, x)
    sample_key, tie_key = jax.random.split(key)
    samples = samples_of_each(posterior, x, num_samples, theta.shape[1:], sample_key)
    # One call for both: a density is compiled once.
    log_prob = log_prob_of_each(posterior, np.concatenate([np.asarray(theta)[:, None], samples], axis=1), x)
    ranks = ranks_among(-log_prob[:, :1], -log_prob[:, 1:, None], tie_key)
    return calibration_test(ranks, num_samples, significance)
