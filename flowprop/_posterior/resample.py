"""Samples drawn again by their importance weights."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._likelihood.importance_weights import ImportanceWeights
from .._types import PRNGKey, check_key, check_positive, check_shape, checked


@checked
def resample(
    samples: Float[Array | np.ndarray, "n *shape"], weights: ImportanceWeights, num_samples: int, *, key: PRNGKey
) -> Float[Array, "num_samples *shape"]:
    """Draw samples again with probabilities equal to their importance weights, with replacement.

    The result follows the target of the weights, up to the few samples that carry them: this is sampling-importance
    resampling ([Rubin 1987](https://doi.org/10.1080/01621459.1987.10478461)). It is systematic: one uniform number
    shifts a comb of equal steps over the cumulated weights, so that a sample of weight `w` is drawn `num_samples * w`
    times, rounded up or down ([Kitagawa 1996](https://doi.org/10.1080/10618600.1996.10474692)). The samples come in
    random order.

    **Arguments:**

    - `samples`: the samples, `(n, *shape)`.
    - `weights`: their weights, from [`flowprop.importance_weights`][] or `Posterior.weights`.
    - `num_samples`: how many to draw. Many more than `weights.effective_sample_size` are mostly copies.
    - `key`: the random key.

    **Returns:** samples, `(num_samples, *shape)`.

    **Raises:** `ValueError` if there is not one weight for each sample, or if `num_samples` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    samples = jnp.array([[0.0], [1.0]])
    weights = fp.importance_weights(jnp.log(jnp.array([1.0, 3.0])), jnp.zeros(2))
    again = fp.resample(samples, weights, 100, key=jax.random.key(0))
    print(round(float(again.sum())))  # 75
    ```
    """
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_shape("weights.log_weights", weights.log_weights, samples.shape[:1], "one weight for each sample")
    key_shift, key_order = jax.random.split(key)
    comb = (jnp.arange(num_samples) + jax.random.uniform(key_shift)) / num_samples
    total = jnp.cumsum(jnp.exp(weights.log_weights))
    rows = jnp.minimum(jnp.searchsorted(total / total[-1], comb), len(samples) - 1)
    return jnp.asarray(samples)[jax.random.permutation(key_order, rows)]
