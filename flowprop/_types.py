"""The shapes that flow through the library, and the check that names what is wrong with one."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Key, Shaped, UInt8, jaxtyped


Target = TypeVar("Target", bound=Callable[..., Any])

Scalar = Float[Array, ""]
#: What is a number to Python: 13 does where 13.0 does.
Real = float | int
#: A time in [0, 1]: a number or a scalar array.
Time = Float[ArrayLike, ""] | int
#: One time, or an array of them.
Times = Float[ArrayLike, "*times"] | int
#: One example in path coordinates, or in the data's.
Point = Float[Array, "*shape"]
#: Batches come from NumPy as often as from JAX.
Points = Float[Array | np.ndarray, "batch *shape"]
Labels = Integer[Array | np.ndarray, " batch"]
Inputs = Shaped[Array | np.ndarray, "batch *input"]
Image = Float[Array, "height width channels"] | UInt8[Array, "height width channels"]
#: A typed key, `jax.random.key(seed)`.
PRNGKey = Key[Array, ""]


def checked(target: Target) -> Target:
    """Check the arguments of a public function, or of a class's constructor, against their annotations, always.

    A wrong shape or type is then an error that names the argument, what came and what was needed.
    Inside `jit` this costs trace time only; outside some 13 microseconds a call. The check is made
    at the first call: made for all at once, it would take most of the time of `import flowprop`.
    """
    if isinstance(target, type):
        target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target
    check: Callable[..., Any] | None = None

    @functools.wraps(target)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        if check is None:
            from beartype import beartype

            check = jaxtyped(typechecker=beartype)(target)
        return check(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def check_shape(name: str, array: Array | np.ndarray, shape: tuple[int | None, ...], remedy: str) -> None:
    """Raise a `ValueError` unless `array` has `shape`, in which `None` stands for any positive size."""
    fits = array.ndim == len(shape) and all(
        have > 0 if want is None else have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        sizes = ", ".join("n" if size is None else str(size) for size in shape)
        wanted = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
        raise ValueError(f"`{name}` has shape {tuple(array.shape)} where {wanted} is needed: {remedy}")


def check_positive(**counts: int) -> None:
    """Raise a `ValueError` unless every one of the named counts is positive."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` is {count}: give a positive number")


def check_key(name: str, key: Any) -> None:
    """Raise a `TypeError` unless `key` is one typed key."""
    typed = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != ():
        raise TypeError(f"`{name}` is {key!r} where one typed key is needed: make it by `jax.random.key(seed)`")
