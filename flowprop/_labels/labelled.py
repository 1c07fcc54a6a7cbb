"""Checks of the labels and weights of a batch, and their conversion to arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Inputs, Labels, Weights, check_shape


def as_labels(labels: Any) -> Labels:
    """Labels as an int32 array `(n,)`, from a list or an array of integers of any width.

    **Raises:** `TypeError` or `ValueError` for anything else; the message names a remedy.
    """
    if isinstance(labels, list | tuple):
        labels = _from_list(labels)
    if not isinstance(labels, jax.Array | np.ndarray):
        raise TypeError(
            f"`labels` is of type {type(labels).__name__}: give an array of integers (n,); `.to_numpy()` converts the "
            "column of a data frame"
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
            f"`labels` is a {type(labels).__name__} with rows of unequal length: give integers (n,)"
        ) from error
    return array.astype(int) if array.shape == (0,) else array


def _remedy(labels: Array | np.ndarray) -> str:
    if labels.ndim == 2 and labels.shape[1] == 1:
        return "give integers (n,), `labels[:, 0].astype(int)`"
    if labels.ndim == 2:
        return "give integers (n,); for one-hot labels, `labels.argmax(axis=1)`"
    if labels.dtype.kind in "OSUT":
        return "give integers (n,); for class names, `np.unique(labels, return_inverse=True)[1]`"
    return "give integers (n,); for whole numbers, `labels.astype(int)`"


def check_labels(inputs: Inputs, labels: Any, num_classes: int) -> Labels:
    """The labels of a batch of inputs, as an int32 array `(n,)`.

    **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels as
    inputs, or if a label is out of range. The range is not checked under `jax.jit`.
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
    """The weights of a batch as an array `(n,)`, or `None` if there are none.

    **Raises:** `ValueError` if there are not as many weights as inputs, or if a weight is negative or not finite (not
    checked under `jax.jit`); `TypeError` if the weights are not numbers.
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
