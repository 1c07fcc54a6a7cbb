"""The parameters of a transform: how they are given, checked and stored, and the precision in which they are used."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._frozen import Frozen
from .._types import Real


#: One example's data, or a batch of them: of any numeric type, from NumPy or JAX.
Data = Shaped[Array | np.ndarray, "*shape"] | Real
#: A number, a list of numbers, or a NumPy or JAX array. `parameter` checks it.
Numbers = Any


def as_floats(data: Data) -> Float[Array, "*shape"]:
    """The data as a floating-point JAX array. Integers take JAX's default precision."""
    array = jnp.asarray(data)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def widen(array: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The array in float32 if it has fewer bits: half precision is used for storage, not for arithmetic."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def like(frozen: Frozen, data: Float[Array, "*data"]) -> Float[Array, "*shape"]:
    """A stored array, rounded to the precision of the data and widened, so that data can be equal to a bound."""
    return widen(frozen.value.astype(data.dtype))


def sum_of(values: Float[Array, "*parameter"], data: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The sum over the coordinates of one example. A scalar parameter counts once for each coordinate."""
    return jnp.sum(jnp.broadcast_to(values, data.shape))


def as_numbers(name: str, value: Any, remedy: str) -> np.ndarray:
    """The user's value as a NumPy array of real numbers in native byte order, or a `TypeError`."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"`{name}` is traced: {remedy}, outside `jax.jit`, `jax.vmap` and `jax.grad`")
    known = isinstance(value, np.ndarray | np.generic | jax.Array | list | tuple | float | int)
    if not known or isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` is a {type(value).__name__} where an array of numbers is needed: {remedy}; for a data frame, "
            "use its `.to_numpy()`"
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError(f"`{name}` has rows of different lengths: {remedy}") from None
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"`{name}` has dtype {array.dtype} where real numbers are needed: {remedy}")
    return array


def parameter(name: str, value: Numbers, remedy: str, *, positive: bool = False) -> Float[np.ndarray | Array, "*shape"]:
    """A parameter in double precision, checked: finite, and above zero if `positive`. A traced one is not checked."""
    if isinstance(value, jax.core.Tracer):
        return as_floats(value)
    array = np.asarray(as_numbers(name, value, remedy), np.float64)
    # Checked in the precision in which it will be stored: rounding may have made it zero or infinite.
    with np.errstate(over="ignore", under="ignore"):
        stored = np.asarray(array, jax.dtypes.canonicalize_dtype(np.float64))
    wrong = np.asarray(~np.isfinite(stored))
    if positive:
        wrong = np.asarray(wrong | (stored < np.finfo(stored.dtype).tiny))
    if wrong.any():
        wanted = "a finite number above zero" if positive else "a finite number"
        place = f" in {name_entries(wrong)}" if wrong.ndim else ""
        raise ValueError(f"`{name}` is {float(array[wrong].flat[0]):g}{place} where {wanted} is needed: {remedy}")
    return array


def name_entries(wrong: np.ndarray, most: int = 6) -> str:
    """The entries of one example at which `wrong` is true, in words."""
    places = np.argwhere(wrong)
    names = [str(place[0]) if len(place) == 1 else str(tuple(int(i) for i in place)) for place in places[:most]]
    more = f" and {len(places) - most} more" if len(places) > most else ""
    kind = "column" if wrong.ndim == 1 else "entry"
    plural = kind if len(places) == 1 else {"column": "columns", "entry": "entries"}[kind]
    return f"{plural} {', '.join(names)}{more}"


def same_shape(
    first: tuple[str, np.ndarray | Array], second: tuple[str, np.ndarray | Array], remedy: str
) -> tuple[int, ...] | None:
    """The common shape of two parameters, of which either may be a scalar: `None` if both are scalars."""
    (name, a), (other, b) = first, second
    if a.shape != b.shape and a.ndim and b.ndim:
        raise ValueError(f"`{name}` has shape {a.shape} and `{other}` has shape {b.shape}: {remedy}")
    return a.shape or b.shape or None


def freeze(array: np.ndarray | Array) -> Frozen:
    """The array in JAX's default precision, never trained."""
    return Frozen(jnp.asarray(array, float))


def freeze_in_two(array: np.ndarray | Array) -> tuple[Frozen, Frozen]:
    """The array in JAX's default precision, and the remainder of its rounding: two float32 for one float64."""
    if isinstance(array, jax.core.Tracer):
        rounded = jnp.asarray(array, float)
        return Frozen(rounded), Frozen(jnp.zeros_like(rounded))
    # With NumPy: inside a transformation, such as `eqx.filter_eval_shape`, JAX does not have the values.
    wide = np.asarray(array, np.float64)
    remainder = wide - wide.astype(jax.dtypes.canonicalize_dtype(np.float64)).astype(np.float64)
    return Frozen(jnp.asarray(wide, float)), Frozen(jnp.asarray(remainder, float))
