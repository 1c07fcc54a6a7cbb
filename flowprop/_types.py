"""The names of array types, and the checks of a caller's arguments."""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Key, Shaped, UInt8

from ._checked import KEY_REMEDY, checked as checked, described, is_key


Scalar = Float[Array, ""]
#: A number in Python: 13 is accepted in place of 13.0.
Real = float | int
#: A number that may be traced.
Number = Real | Float[Array, ""]
#: A time in [0, 1]: a number or a scalar array.
Time = Float[ArrayLike, ""] | int
#: One time, or an array of them.
Times = Float[ArrayLike, "*times"] | int
#: One example, in the path's coordinates or in the data's units.
Point = Float[Array, "*shape"]
#: A batch of examples, of NumPy or JAX.
Points = Float[Array | np.ndarray, "batch *shape"]
#: Data of any type that a flow's transform takes: floating-point numbers, or integers for `fp.Dequantise`.
Data = Shaped[Array | np.ndarray, "batch *shape"]
#: One weight for each example.
Weights = Shaped[Array | np.ndarray, " weights"]
Labels = Integer[Array | np.ndarray, " batch"]
Inputs = Shaped[Array | np.ndarray, "batch *input"]
Image = Float[Array, "height width channels"] | UInt8[Array, "height width channels"]
#: A typed key, `jax.random.key(seed)`.
PRNGKey = Key[Array, ""]


def check_shape(name: str, array: Array | np.ndarray, shape: tuple[int | None, ...], remedy: str) -> None:
    """Raise a `ValueError` unless `array` has `shape`, in which `None` stands for any positive size."""
    fits = array.ndim == len(shape) and all(
        have > 0 if want is None else have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        sizes = ", ".join("n" if size is None else str(size) for size in shape)
        wanted = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
        raise ValueError(f"`{name}` has shape {tuple(array.shape)} where {wanted} is needed: {remedy}")


def check_positive(**counts: int | None) -> None:
    """Raise a `ValueError` unless all of the named counts are positive; `None` stands for a default."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"`{name}` is {count}: give a positive number")


def check_number(
    name: str,
    value: Any,
    *,
    above: Real | None = None,
    at_least: Real | None = None,
    below: Real | None = None,
    at_most: Real | None = None,
    remedy: str,
) -> None:
    """Raise a `ValueError` unless a number is finite and within its bounds. A traced number is not checked."""
    if isinstance(value, jax.core.Tracer):
        return
    number = float(value)
    fits = (
        math.isfinite(number)
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not fits:
        raise ValueError(f"`{name}` is {value}: {remedy}")


def check_key(name: str, key: Any) -> None:
    """Raise a `TypeError` unless `key` is one typed key."""
    if not is_key(key) or key.shape != ():
        raise TypeError(f"`{name}` is {described(key)} where one typed key is needed{KEY_REMEDY}")


def is_traced(*values: Any) -> bool:
    """Whether any array in some PyTrees is traced by a transformation such as `jax.jit`: its values are not known."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))
