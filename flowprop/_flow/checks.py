"""The checks of what a flow is given: its parts, points, conditions, data as a whole."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._frozen import trainable
from .._types import check_key, check_number, check_positive
from .network import network_has_state


def refuse_if(value: Array, wrong: Array, message: str) -> Array:
    """`value`, or an error: at once if the condition is known, otherwise at run time."""
    if isinstance(wrong, jax.core.Tracer):
        return eqx.error_if(value, wrong, message)
    if bool(wrong):
        raise ValueError(message)
    return value


def check_parts(flow: Any) -> None:
    """Raise a `ValueError` unless the parts of a new flow fit together."""
    path, prediction = flow.path, flow.prediction
    if not flow.source.is_gaussian and not path.starts_at_source:
        raise ValueError(
            f"`source` is {type(flow.source).__name__} and `path` a {type(path).__name__}, which does not begin with "
            "`z_0` alone: give `fp.CondOTPath()`"
        )
    if flow.end is not None:
        start = prediction.span(path)[0]
        remedy = f"give a time between {start} and 1, close to 1, where the data are"
        check_number("end", flow.end, above=start, below=1, remedy=remedy)
    if flow.weighting.needs_finite_snr and not path.snr_is_finite and flow.span[1] >= path.span[1]:
        raise ValueError(
            f"`weighting` is {type(flow.weighting).__name__}, which needs a finite signal-to-noise ratio, and a "
            f"{type(path).__name__} ends without noise: give `fp.ELBOWeighting()` or `fp.MinSNRWeighting()`, or "
            "let the flow stop early, `end=0.98`"
        )
    if any(jax.tree.leaves(trainable(path))) and not flow.time_sampling.is_uniform:
        raise ValueError(
            f"`time_sampling` is {type(flow.time_sampling).__name__}, and `path` has parameters, which need "
            "uniform times: leave `time_sampling` out, and use a `weighting` to look more at some times"
        )


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
    if network_has_state(flow.network):
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
