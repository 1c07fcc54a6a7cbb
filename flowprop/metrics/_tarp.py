"""Tests of accuracy with random points."""

import jax
import numpy as np
from jaxtyping import Array, Float

from .._types import PRNGKey, Real, check_key, check_positive, checked
from ._posterior import Observations, Parameters, PosteriorLike, check_pairs, samples_of_each
from ._samples import check_finite, standardiser, vectors
from ._uniform_ranks import CalibrationTest, calibration_test, ranks_among


Vectors = Float[np.ndarray, "n dim"]


@checked
def tarp(
    posterior: PosteriorLike,
    theta: Parameters,
    x: Observations,
    *,
    key: PRNGKey,
    num_samples: int = 99,
    references: Float[Array | np.ndarray, "batch *shape"] | None = None,
    significance: Real = 0.05,
) -> CalibrationTest:
    """Tests of accuracy with random points (TARP): the expected coverage of balls around random reference points.

    For each pair of a parameter and its observation, the credible region is the ball around a reference point that
    reaches to the true parameter. The rank is the number of posterior samples in the ball. It is uniform for every
    choice of reference points if, and only if, the posterior is exact
    ([Lemos et al. 2023](https://arxiv.org/abs/2302.03026), theorem 3). Distances are measured in coordinates that are
    standardised by the mean and standard deviation of `theta`. All coordinates are tested together, and no density is
    needed.

    Reference points that do not depend on the observation cannot reject a posterior that returns the prior (the same
    paper, section 4.2). By default each reference point is therefore a guess at the parameter: a linear regression of
    `theta` on `x`, fitted to the other half of the pairs, and normal noise as large as the error of the regression.

    **Arguments:**

    - `posterior`: the posterior to check, a [`flowprop.metrics.PosteriorLike`][].
    - `theta`: parameters drawn from the prior and not used for training, `(n, *shape)`. Some hundreds are enough.
    - `x`: one simulated observation for each parameter, `(n, *observation)`.
    - `key`: a typed key, for the samples, the reference points and ties.
    - `num_samples`: how many samples are drawn from the posterior of each observation. By default 99.
    - `references`: one reference point for each pair, `(n, *shape)`, in the units of `theta`. It may depend on the
        observation, but not on the parameter. By default as described above.
    - `significance`: the probability with which an exact posterior fails. By default 5 %.

    **Returns:** a [`flowprop.metrics.CalibrationTest`][] with one column, which [`flowprop.plot.coverage`][] draws.

    **Raises:** `ValueError` if there are no pairs, their numbers differ, or they or the samples are not finite;
    `TypeError` if `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax


    class Prior:
        \"\"\"Ignores the observation.\"\"\"

        def sample(self, x, num_samples, *, key):
            return jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    print(fp.metrics.tarp(Prior(), theta, x, key=key).passed)  # False
    ```
    """
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_pairs(theta, x)
    sample_key, tie_key, reference_key = jax.random.split(key, 3)
    samples = samples_of_each(posterior, x, num_samples, theta.shape[1:], sample_key)
    standard = standardiser(vectors(theta))
    true, drawn = standard(vectors(theta)), standard(samples.reshape(len(theta), num_samples, -1))
    if references is None:
        guess = _guesses(true, vectors(x), reference_key)
    else:
        check_finite(references=references)
        guess = standard(vectors(references))
    own, of_samples = np.sum((true - guess) ** 2, axis=-1), np.sum((drawn - guess[:, None]) ** 2, axis=-1)
    return calibration_test(ranks_among(own[:, None], of_samples[..., None], tie_key), num_samples, significance)


def _guesses(theta: Vectors, x: Float[np.ndarray, "n inputs"], key: PRNGKey) -> Vectors:
    """Each half's parameters as the regression on the other half predicts them, with noise of the regression's size."""
    # Weights of unit variance then predict standardised parameters.
    x = standardiser(x)(x) / np.sqrt(x.shape[1])
    noise = np.asarray(jax.random.normal(key, theta.shape))
    guess = np.zeros_like(theta)
    for half, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        kernel = x[other] @ x[other].T
        fitted = np.linalg.solve(kernel + np.eye(len(kernel)), theta[other])
        error = np.sqrt(np.mean((theta[other] - kernel @ fitted) ** 2, axis=0)) if len(kernel) else 1.0
        guess[half] = x[half] @ x[other].T @ fitted + error * noise[half]
    return guess
