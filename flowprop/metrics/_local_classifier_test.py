"""The local classifier two-sample test of a posterior at one observation."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._types import PRNGKey, Real, check_key, check_positive, checked
from ._posterior import Observations, Parameters, PosteriorLike, check_pairs, samples_of_each
from ._samples import standardiser, vectors


Matrix = Float[np.ndarray, "n dim"]

#: The bandwidths of the kernel, in units of the median distance.
_BANDWIDTHS = (0.5, 1.0, 2.0)
_MOST_PAIRS = 2000


class LocalTwoSampleTest(NamedTuple):
    """The result of [`flowprop.metrics.local_c2st`][]; [`flowprop.plot.local_c2st`][] draws it.

    **Arguments:**

    - `statistic`: the mean of `(probability - 1/2)^2` over the samples.
    - `null`: the same statistic after each permutation, `(num_permutations,)`.
    - `p_value`: the probability that the statistic of an exact posterior is at least as large.
    - `significance`: the probability with which the check rejects an exact posterior.
    - `samples`: samples of the posterior of the observation, `(num_samples, *shape)`.
    - `probability`: the estimated probability that each sample is a true parameter and not one of the posterior's,
        `(num_samples,)`. It is above 1/2 where the posterior's density is too low, and below where it is too high.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class TooLow:
        \"\"\"Wrong if theta ~ N(0, 1) and x ~ N(theta, 1): the mean is too small by 1.\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 - 1 + np.sqrt(0.5) * jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    test = fp.metrics.local_c2st(TooLow(), theta, x, np.zeros(1), key=key)
    high, low = test.samples[:, 0] > 0, test.samples[:, 0] < -1
    print(bool(test.probability[high].mean() > test.probability[low].mean()))  # True
    ```
    """

    statistic: float
    null: Float[np.ndarray, " permutations"]
    p_value: float
    significance: float
    samples: Float[np.ndarray, "num_samples *shape"]
    probability: Float[np.ndarray, " num_samples"]

    @property
    def passed(self) -> bool:
        """Whether the posterior of this observation does not differ significantly."""
        return self.p_value > self.significance

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'failed'} at {self.significance:.2g}: p-value {self.p_value:.2g}"


@checked
def local_c2st(
    posterior: PosteriorLike,
    theta: Parameters,
    x: Observations,
    observation: Shaped[Array | np.ndarray, "*observation"],
    *,
    key: PRNGKey,
    num_samples: int = 500,
    num_permutations: int = 500,
    significance: Real = 0.05,
) -> LocalTwoSampleTest:
    """The local classifier two-sample test (local C2ST): whether the posterior of one given observation is right.

    A classifier learns to distinguish the pairs `(theta, x)` from pairs of the posterior's own samples with the same
    observations. Its probabilities are then taken at samples of the posterior of the given observation: the statistic
    is their mean squared difference from 1/2 ([Linhart et al. 2023](https://arxiv.org/abs/2306.03580), section 3). No
    sample of the true posterior is needed.

    The null distribution is that of the statistic when the two parameters of each pair are exchanged at random, which
    changes nothing if the posterior is exact at all observations. The classifier is a kernel ridge regression of the
    labels -1 and 1 with a gaussian kernel of three bandwidths on standardised coordinates, because it is linear in
    the labels: one factorisation serves all permutations. It uses at most the 2,000 pairs whose observations are
    nearest to the given one. It is best for some tens of coordinates of `theta` and `x` together; summarise longer
    observations.

    **Arguments:**

    - `posterior`: the posterior to check, a [`flowprop.metrics.PosteriorLike`][].
    - `theta`: parameters drawn from the prior and not used for training, `(n, *shape)`. A thousand or more.
    - `x`: one simulated observation for each parameter, `(n, *observation)`.
    - `observation`: the observation whose posterior is checked, without a batch axis.
    - `key`: a typed key, for the samples and the permutations.
    - `num_samples`: how many samples are drawn from the posterior of the observation. By default 500.
    - `num_permutations`: the number of permutations. By default 500.
    - `significance`: the probability with which an exact posterior fails. By default 5 %.

    **Returns:** a [`flowprop.metrics.LocalTwoSampleTest`][].

    **Raises:** `ValueError` if there are no pairs, their numbers differ, or they or the samples are not finite;
    `TypeError` if `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class Prior:
        \"\"\"Ignores the observation.\"\"\"

        def sample(self, x, num_samples, *, key):
            return jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (200, 1))
    x = theta + jax.random.normal(noise, (200, 1))
    print(fp.metrics.local_c2st(Prior(), theta, x, np.ones(1), key=key).passed)  # False
    ```
    """
    check_key("key", key)
    check_positive(num_samples=num_samples, num_permutations=num_permutations)
    check_pairs(theta, x)
    each_key, one_key, flip_key = jax.random.split(key, 3)

    standard = standardiser(vectors(x))
    inputs, given = standard(vectors(x)), standard(vectors(observation[None]))
    nearest = np.argsort(np.sum((inputs - given) ** 2, axis=1), kind="stable")[:_MOST_PAIRS]
    inputs, true = inputs[nearest], np.asarray(theta)[nearest]
    own = samples_of_each(posterior, np.asarray(x)[nearest], 1, theta.shape[1:], each_key)[:, 0]
    samples = samples_of_each(posterior, np.asarray(observation)[None], num_samples, theta.shape[1:], one_key)[0]

    parameters = vectors(np.concatenate([true, own]))
    standard = standardiser(parameters)
    points = np.concatenate([standard(parameters), np.tile(inputs, (2, 1))], axis=1)
    at = np.concatenate([standard(vectors(samples)), np.tile(given, (num_samples, 1))], axis=1)
    # Row 0 is the data as they are; in the others the label of each pair has a random sign.
    signs = np.array(jax.random.rademacher(flip_key, (len(true), 1 + num_permutations)), np.float64)
    signs[:, 0] = 1
    difference = _regression(points, np.concatenate([signs, -signs]), at)
    statistic = np.mean((difference / 2) ** 2, axis=0)
    p_value = np.mean(statistic >= statistic[0] * (1 - 1e-9))
    probability = np.clip((1 + difference[:, 0]) / 2, 0, 1)
    return LocalTwoSampleTest(
        float(statistic[0]), statistic[1:], float(p_value), float(significance), samples, probability
    )


def _regression(
    points: Matrix, labels: Float[np.ndarray, "n columns"], at: Float[np.ndarray, "m dim"]
) -> Float[np.ndarray, "m columns"]:
    """Kernel ridge regression of each column of labels. The labels have variance 1, which is the penalty."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.spatial.distance import cdist

    squares = cdist(points, points, "sqeuclidean")
    median = np.median(squares[~np.eye(len(points), dtype=bool)]) or 1.0

    def kernel(squares: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return np.mean([np.exp(-squares / (2 * width**2 * median)) for width in _BANDWIDTHS], axis=0)

    factor = cho_factor(kernel(squares) + np.eye(len(points)))
    return kernel(cdist(at, points, "sqeuclidean")) @ cho_solve(factor, labels)
