"""The checks of what a flow is given: points, conditions, data as a whole."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._types import check_key, check_positive


def refuse_if(value: Array, wrong: Array, message: str) -> Array:
    """`value`, or an error: at once if the condition is known, otherwise at run time."""
    if isinstance(wrong, jax.core.Tracer):
        return eqx.error_if(value, wrong, message)
    if bool(wrong):
        raise ValueError(message)
    return value


def check_floating(name: str, array: Array) -> None:
    """Raise a `TypeError` unless `array` holds floating-point numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` holds {array.dtype} numbers where a flow moves floating-point ones: convert them, "
            "`.astype(float)`, or give the flow `transform=fp.Dequantise()` for integers"
        )


def warn_of_scale(points: np.ndarray) -> None:
    """Warn if a column of vectors, or an array as a whole, is far from the unit scale of the noise."""
    points = points.astype(np.float64)
    axes = 0 if points.ndim == 2 else None
    mean, std = np.atleast_1d(points.mean(axes)), np.atleast_1d(points.std(axes))
    far = (std < 0.1) | (std > 10) | (np.abs(mean) > 10)
    if far.any():
        column = int(np.argmax(far))
        which = f"column {column}" if points.ndim == 2 else "the array as a whole"
        warnings.warn(
            f"the data are far from the unit scale of the noise: {which} has mean {mean[column]:.3g} and standard "
            f"deviation {std[column]:.3g}. Give the flow `transform=fp.Standardise.fit(points)`; samples and "
            "likelihoods stay in the data's units",
            stacklevel=4,
        )


def check_stateless(flow: Any, what: str) -> None:
    """Raise a `ValueError` if the flow's network has a state, which `what` cannot train."""
    if flow.has_state:
        raise ValueError(
            f"`flow` has a network with a state, which {what} cannot train: fit the flow by itself, or give the "
            "network layers without a state, such as `equinox.nn.LayerNorm`"
        )


def check_condition(x: PyTree, batch: int) -> None:
    """Raise a `ValueError` unless every leaf of a batch's condition carries the batch axis."""
    for leaf in jax.tree.leaves(x):
        if not eqx.is_array_like(leaf):
            remedy = "give the numbers, `.to_numpy()`" if callable(getattr(leaf, "to_numpy", None)) else "give arrays"
            raise TypeError(f"`x` holds a {type(leaf).__name__} where arrays are needed: {remedy}")
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != batch:
            raise ValueError(
                f"`x` has a leaf of shape {jnp.shape(leaf)} where the batch has {batch} examples: "
                "every leaf of a batch's condition carries the batch axis first"
            )


def check_draws(name: str, count: int, x: PyTree, key: Any, batch_size: int | None) -> None:
    """Check a request for `count` draws: their number, conditions, key and the size of a batch.

    **Raises:** `TypeError` for no typed key; `ValueError` for a number that is not positive, or a condition without the
    batch axis.
    """
    check_key("key", key)
    check_positive(**{name: count}, batch_size=batch_size)
    check_condition(x, count)
