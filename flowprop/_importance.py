"""Samples of a flow as samples of another density."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._types import Scalar, check_shape, checked


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

    **Raises:** `ValueError` if there are no samples; `TypeError` if there are not as many of one as of the other.
    """
    log_target, log_prob = jnp.asarray(log_target), jnp.asarray(log_prob)
    check_shape("log_target", log_target, (None,), "one number for each sample")
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
