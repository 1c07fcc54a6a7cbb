"""Labels and weights that come with a batch of inputs: checked, and made arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._types import Inputs, Labels, Weights, check_shape


def as_labels(labels: Any) -> Labels:
    """Labels as an array `(n,)` of int32, from an array of integers of any width or a list.

    **Raises:** `TypeError` or `ValueError`, with the remedy, for anything else.
    """
    if isinstance(labels, list | tuple):
        labels = _from_list(labels)
    if not isinstance(labels, jax.Array | np.ndarray):
        raise TypeError(
            f"`labels` is of type {type(labels).__name__}: give an array of integers (n,), such as `.to_numpy()` makes "
            "of a data frame's column"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` holds {labels.dtype} of shape {labels.shape}: {_remedy(labels)}")
    if labels.ndim != 1:
        raise ValueError(f"`labels` has shape {labels.shape}: {_remedy(labels)}")
    if isinstance(labels, np.ndarray):
        limits = np.iinfo(np.int32)
        return np.clip(labels.astype(np.int64), limits.min, limits.max).astype(np.int32)
    return labels.astype(jnp.int32)


def _from_list(labels: list | tuple) -> np.ndarray:
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise ValueError(
            f"`labels` is a {type(labels).__name__} of rows of unequal length: give integers (n,)"
        ) from error
    return array.astype(int) if array.shape == (0,) else array


def _remedy(labels: Array | np.ndarray) -> str:
    if labels.ndim == 2 and labels.shape[1] == 1:
        return "give integers (n,), by `labels[:, 0].astype(int)`"
    if labels.ndim == 2:
        return "give integers (n,), by `labels.argmax(axis=1)` if these are one-hot"
    if labels.dtype.kind in "OSUT":
        return "give integers (n,), by `np.unique(labels, return_inverse=True)[1]` if these are names"
    return "give integers (n,), by `labels.astype(int)` if these are whole numbers"


def check_labels(inputs: Inputs, labels: Any, num_classes: int) -> Labels:
    """The labels of a batch of inputs, as an array `(n,)` of int32.

    **Raises:** `TypeError` or `ValueError` if they are no integers `(n,)`, there are not as many labels as inputs, or
    one whose value is known is out of range.
    """
    labels = as_labels(labels)
    check_shape("labels", labels, (inputs.shape[0],), "one label for each input")
    if not isinstance(labels, jax.core.Tracer) and labels.size:
        known = np.asarray(labels)
        if known.min() < 0 or known.max() >= num_classes:
            raise ValueError(
                f"`labels` lie in [{known.min()}, {known.max()}]: the embedding has classes 0 to {num_classes - 1}"
            )
    return labels


def check_weights(weights: Weights | None, num_examples: int) -> Float[Array, " batch"] | None:
    """A batch's weights as an array `(n,)`, or `None` if there are none.

    **Raises:** `ValueError` if there are not as many weights as inputs, or one whose value is known is negative or not
    finite; `TypeError` if they are no numbers.
    """
    if weights is None:
        return None
    check_shape("weights", weights, (num_examples,), "one weight for each input")
    if not (jnp.issubdtype(weights.dtype, jnp.floating) or jnp.issubdtype(weights.dtype, jnp.integer)):
        raise TypeError(f"`weights` holds {weights.dtype}: give floating-point numbers (n,)")
    if not isinstance(weights, jax.core.Tracer):
        known = np.asarray(weights, float)
        if not np.all((known >= 0) & (known < np.inf)):
            raise ValueError("`weights` holds a negative number, NaN or infinity: give numbers from 0 on, of mean 1")
    weights = jnp.asarray(weights)
    return weights if jnp.issubdtype(weights.dtype, jnp.floating) else weights.astype(float)


def weighted_mean(values: Float[Array, " batch"], weights: Float[Array, " batch"] | None) -> Float[Array, ""]:
    """The mean of `weights * values` over a batch; without weights, the mean of `values`."""
    return jnp.mean(values if weights is None else weights.astype(values.dtype) * values)
