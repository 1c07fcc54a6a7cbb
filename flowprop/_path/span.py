"""The span: the interval of times over which a path's coefficients can be used."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike


Span = tuple[float, float]

# A coefficient below `_VANISHED` counts as zero. A span that cannot reach its end stops where the coefficient is
# `_USABLE`.
_VANISHED, _USABLE = 1e-6, 1e-2
# How far from 0 or from 1 a span may stop: numbers of two digits, from 1e-5 to 0.5.
_DISTANCES = np.array([float(f"{m}e{k}") for k in range(-6, -1) for m in range(10, 100) if m * 10.0**k <= 0.5])
_TIMES = np.round(np.concatenate([[0.0], _DISTANCES, 1 - _DISTANCES[::-1], [1.0]]), 7)


def derivative(function: Callable[[Array], Array], t: ArrayLike) -> Array:
    """The derivative of a scalar function of time, element by element."""
    t = jnp.asarray(t, jnp.result_type(t, float))
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def known(function: Callable[[], Array]) -> np.ndarray | None:
    """The value of a function without arguments, also inside `jax.jit`; `None` if it depends on a traced array."""
    with jax.ensure_compile_time_eval():
        value = function()
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def spans_of(sizes: Callable[[Array], Array]) -> tuple[Span, ...] | None:
    """For each of several coefficients, the largest span within [0, 1] on which it does not vanish.

    A span includes an end if the coefficient is finite there and above 1e-6. Otherwise it stops at the time nearest to
    that end at which the coefficient is 0.01.

    **Arguments:**

    - `sizes`: a function from times `(n,)` to the coefficients `(k, n)`; NaN at a time that cannot be used.

    **Returns:** `k` spans, or `None` if the coefficients depend on a traced array.

    **Raises:** `ValueError` if a coefficient can be used at no time.
    """

    def sizes_at(times: np.ndarray) -> np.ndarray | None:
        return known(lambda: sizes(jnp.asarray(times, float)))

    ends = sizes_at(np.array([0.0, 1.0]))
    if ends is None:
        return None
    # Most paths can be used up to both ends. For them two times are enough.
    if np.all(ends > _VANISHED) and np.all(np.isfinite(ends)):
        return ((0.0, 1.0),) * len(ends)
    values = sizes_at(_TIMES)
    assert values is not None
    spans = tuple((_first(_TIMES, row), _first(_TIMES[::-1], row[::-1])) for row in values)
    if any(start >= end for start, end in spans):
        raise ValueError(
            "the path's coefficients cannot be used at any time: alpha has to rise and sigma to fall with t, from "
            "noise at t = 0 to data at t = 1, and both have to be finite and positive inside of (0, 1)"
        )
    return spans


def sizes_of(alpha: Callable[[Array], Array], sigma: Callable[[Array], Array], t: Array) -> Array:
    """`alpha`, `sigma` and the Wronskian, stacked; NaN at times where one of them or its derivative is not finite."""
    values = alpha(t), sigma(t), derivative(alpha, t), derivative(sigma, t)
    wronskian = values[2] * values[1] - values[0] * values[3]
    finite = jnp.all(jnp.isfinite(jnp.stack(values)), axis=0)
    return jnp.where(finite[None], jnp.stack([values[0], values[1], wronskian]), jnp.nan)


def _first(times: np.ndarray, size: np.ndarray) -> float:
    """The first of the times at which a coefficient can be used; the last one if there is none."""
    if np.isfinite(size[0]) and size[0] > _VANISHED:
        return float(times[0])
    # With a tolerance, because 1 - t has few digits in single precision.
    usable = np.isfinite(size) & (size >= 0.999 * _USABLE)
    return float(times[usable.argmax()] if usable.any() else times[-1])
