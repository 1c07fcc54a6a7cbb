"""The types of the samples that are compared, and the checks of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._types import is_traced


#: Two samples of points of the same shape. The sizes of the samples may differ.
FirstSample = Float[Array | np.ndarray, "n *shape"]
SecondSample = Float[Array | np.ndarray, "m *shape"]
FirstMatrix = Float[np.ndarray, "n dim"]
SecondMatrix = Float[np.ndarray, "m dim"]


def check_at_least(size: int, **samples: Float[Array | np.ndarray, "..."]) -> None:
    """Raise a `ValueError` unless each of the named samples has `size` points."""
    for name, sample in samples.items():
        if len(sample) < size:
            raise ValueError(f"`{name}` has {len(sample)} points where at least {size} are needed: draw more")


def check_finite(**samples: Float[Array | np.ndarray, "..."]) -> None:
    """Raise a `ValueError` unless each of the named samples is finite. Traced samples are not checked."""
    for name, sample in samples.items():
        if is_traced(sample):
            continue
        finite = np.isfinite(np.asarray(sample)).reshape(len(sample), -1).all(axis=1)
        if not finite.all():
            bad = int(np.sum(~finite))
            raise ValueError(f"`{name}` has {bad} points that are not finite: remove them or correct their source")


def matrices(a: FirstSample, b: SecondSample) -> tuple[FirstMatrix, SecondMatrix]:
    """Both samples with flattened points, in double precision, after checks that they are finite and not empty."""
    check_at_least(1, a=a, b=b)
    check_finite(a=a, b=b)
    first, second = (np.asarray(sample, np.float64).reshape(len(sample), -1) for sample in (a, b))
    return first, second


def arrays(a: FirstSample, b: SecondSample) -> tuple[Float[Array, "n dim"], Float[Array, "m dim"]]:
    """Both samples with flattened points, in one type of at least single precision, after a check for finiteness."""
    check_finite(a=a, b=b)
    dtype = jnp.result_type(jnp.float32, *(jax.dtypes.canonicalize_dtype(sample.dtype) for sample in (a, b)))
    first, second = (jnp.asarray(sample, dtype).reshape(len(sample), -1) for sample in (a, b))
    return first, second


def vectors(rows: Shaped[Array | np.ndarray, "n *shape"]) -> Float[np.ndarray, "n dim"]:
    """The rows, flattened and in double precision."""
    return np.asarray(rows, np.float64).reshape(len(rows), -1)


def standardiser(points: FirstMatrix) -> Callable[[Any], Any]:
    """A function to the coordinates in which these points have mean 0 and variance 1. Constant ones are only moved."""
    mean, deviation = points.mean(axis=0), points.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return lambda others: (others - mean) / deviation
