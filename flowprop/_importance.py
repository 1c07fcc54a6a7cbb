"""Samples of a flow as samples of another density."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._types import Scalar, check_shape, checked, is_traced


class ImportanceWeights(eqx.Module):
    """How samples of a flow stand for a target density.

    - `log_weights`: normalised, `logsumexp(log_weights) = 0`: expectations are `sum(exp(log_weights) * f(samples))`.
    - `effective_sample_size`: `1 / sum w^2`, between 1 and the number of samples (Kong 1992).
    - `log_normaliser`: the target's, `log mean(target / density)`, in nats; its exponential is unbiased.
    - `log_normaliser_error`: its standard error, `sqrt(1/ESS - 1/n)`, to first order.

    They are worth what the tails of the flow are worth: where it has no samples, nothing warns of what the
    target has there.
    """

    log_weights: Float[Array, " samples"]
    effective_sample_size: Scalar
    log_normaliser: Scalar
    log_normaliser_error: Scalar


@checked
def importance_weights(
    log_target: Float[Array | np.ndarray, " samples"], log_prob: Float[Array | np.ndarray, " samples"]
) -> ImportanceWeights:
    """Self-normalised importance weights, `w_i` proportional to `target(z_i) / p(z_i)`.

    **Arguments:**

    - `log_target`: the logarithm of the target, normalised or not, at samples of the flow; `-inf` where it is 0.
    - `log_prob`: the flow's log-density there, both as of [`flowprop.sample_and_log_prob`][].

    **Returns:** the [`flowprop.ImportanceWeights`][].

    **Raises:** `ValueError` if there are no samples, the target is 0 at all of them, or a number other than a
    `log_target` of `-inf` is not finite; `TypeError` if there are not as many of one as of the other.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    samples, log_prob = fp.sample_and_log_prob(flow, 100, key=jax.random.key(0))
    weights = fp.importance_weights(-0.5 * jnp.sum(samples**2, axis=1), log_prob)
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
    remedy = "leave these samples out, or mend what made them"
    if count := int(np.sum(np.isnan(log_target) | (log_target == np.inf))):
        raise ValueError(f"`log_target` holds {count} numbers that are NaN or infinity: {remedy}")
    if count := int(np.sum(~np.isfinite(log_prob))):
        raise ValueError(f"`log_prob` holds {count} numbers that are not finite: {remedy}")
    if np.all(log_target == -np.inf):
        raise ValueError("`log_target` is -inf at every sample: the flow never draws where the target is positive")
