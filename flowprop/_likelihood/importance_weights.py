"""Importance weights, which make samples of a flow represent another density."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Scalar, check_shape, checked, is_traced


class ImportanceWeights(eqx.Module):
    """Importance weights of samples of a flow for a target density, and what follows from them.

    The weights cannot detect regions that the flow never samples, even if the target has probability there.

    **Fields:**

    - `log_weights`: the logarithms of the normalised weights, `(n,)`, with `logsumexp(log_weights) = 0`. The
      expectation of `f` under the target is `sum(exp(log_weights) * f(samples))`.
    - `effective_sample_size`: `1 / sum w^2`, a scalar between 1 and the number of samples (Kong 1992;
      [Kong, Liu & Wong 1994](https://doi.org/10.1080/01621459.1994.10476469)).
    - `log_normaliser`: the logarithm of the target's normalising constant, `log mean(target / density)`, a scalar in
      nats. Its exponential is unbiased.
    - `log_normaliser_error`: the standard error of `log_normaliser`, `sqrt(1/ESS - 1/n)`, a scalar, to first order.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    log_target, log_density = jnp.log(jnp.array([2.0, 6.0])), jnp.zeros(2)
    weights = fp.importance_weights(log_target, log_density)
    first, second = jnp.exp(weights.log_weights)
    print(f"{first:.2f}, {second:.2f}")  # 0.25, 0.75
    print(f"{weights.effective_sample_size:.3f}")  # 1.600
    print(f"{jnp.exp(weights.log_normaliser):.3f}")  # 4.000
    ```
    """

    log_weights: Float[Array, " samples"]
    effective_sample_size: Scalar
    log_normaliser: Scalar
    log_normaliser_error: Scalar


@checked
def importance_weights(
    log_target: Float[Array | np.ndarray, " samples"], log_prob: Float[Array | np.ndarray, " samples"]
) -> ImportanceWeights:
    """Compute self-normalised importance weights, `w_i` proportional to `target(z_i) / p(z_i)`.

    ([Kong, Liu & Wong 1994](https://doi.org/10.1080/01621459.1994.10476469).)

    **Arguments:**

    - `log_target`: the logarithm of the target density at `n` samples of the flow, `(n,)`, normalised or not; `-inf` if
      the target is 0.
    - `log_prob`: the log-density of the flow in nats at the same samples, `(n,)`.
      [`flowprop.sample_and_log_prob`][] returns samples and their log-densities.

    **Returns:** an [`flowprop.ImportanceWeights`][].

    **Raises:** `ValueError` if there are no samples, if the target is 0 at all samples, or if a number is not finite,
    except for `-inf` in `log_target`; `TypeError` if the two arrays do not have the same length.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    samples, log_prob = fp.sample_and_log_prob(flow, 100, key=jax.random.key(0))
    weights = fp.importance_weights(-0.5 * jnp.sum(samples**2, axis=1), log_prob)
    print(weights.log_weights.shape)  # (100,)
    print(bool(weights.effective_sample_size > 90))  # True
    ```
    """
    log_target, log_prob = jnp.asarray(log_target), jnp.asarray(log_prob)
    check_shape("log_target", log_target, (None,), "one number for each sample")
    if not is_traced(log_target, log_prob):
        _check_values(np.asarray(log_target), np.asarray(log_prob))
    ratios = log_target - log_prob
    total = jax.nn.logsumexp(ratios)
    log_weights = ratios - total
    inverse = jnp.exp(jax.nn.logsumexp(2 * log_weights))
    return ImportanceWeights(
        log_weights,
        1 / inverse,
        total - jnp.log(jnp.asarray(ratios.size, ratios.dtype)),
        jnp.sqrt(jnp.maximum(inverse - 1 / ratios.size, 0)),
    )


def _check_values(log_target: Float[np.ndarray, " samples"], log_prob: Float[np.ndarray, " samples"]) -> None:
    remedy = "remove these samples, or correct the function that computed the values"
    if count := int(np.sum(np.isnan(log_target) | (log_target == np.inf))):
        raise ValueError(f"`log_target` holds {count} numbers that are NaN or infinity: {remedy}")
    if count := int(np.sum(~np.isfinite(log_prob))):
        raise ValueError(f"`log_prob` holds {count} numbers that are not finite: {remedy}")
    if np.all(log_target == -np.inf):
        raise ValueError("`log_target` is -inf at every sample: the flow draws nothing where the target is positive")
