"""The transform for data between two bounds."""

import math
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._frozen import Frozen
from .._types import Scalar, check_shape
from .parameters import Data, Numbers, as_floats, as_numbers, freeze, like, name_entries, parameter, same_shape, widen
from .transform import AbstractBijectiveTransform, Requirement, Shape


class Bounded(AbstractBijectiveTransform):
    """Data between two bounds: `z = Phi^-1((data - low) / (high - low))`, with the normal distribution function `Phi`.

    Uniform data become exactly `N(0, 1)`, the noise in which a flow starts. So the flow has nothing to learn where a
    posterior is the same as a uniform prior, and there is no sharp edge where the data fill their range. The more
    common logit turns uniform data into a logistic distribution, whose tails are heavier than those of the noise.

    Samples are always within the bounds. Outside the bounds the density is zero, with a `log_det` of minus infinity and
    a finite `z`. A point on a bound is treated as if it were `eps (high - low)`, one rounding error, inside the bounds:
    `|z|` is at most 5.2 in float32 and 8.2 in float64. For data with a finer structure at a bound, such as values from
    1e-12 to 1, use [`flowprop.Positive`][].

    **Arguments:**

    - `low`: the lower bound: an array of the shape of one example, or a number for all coordinates.
    - `high`: the upper bound, in the same form.

    **Raises:** `ValueError` for bounds that are not finite, a `low` that is not below `high`, or two shapes that
    differ.

    ```python
    import flowprop as fp

    transform = fp.Bounded(0.0, 10.0)
    print(transform.forward(5.0))  # 0.0
    print(transform.log_det(11.0))  # -inf
    print(round(float(transform.inverse(1.0)), 3))  # 8.413
    ```
    """

    low: Frozen
    high: Frozen
    _shape: Shape = eqx.field(static=True)

    def __init__(self, low: Numbers, high: Numbers) -> None:
        remedy = "for data without an upper or lower bound use `fp.Positive()`, with the data shifted or negated"
        low, high = _bound("low", low, remedy), _bound("high", high, remedy)
        self._shape = same_shape(("low", low), ("high", high), "give both the shape of one example, or a number")
        self.low, self.high = freeze(low), freeze(high)
        if isinstance(low, np.ndarray) and isinstance(high, np.ndarray):
            # Compared in the precision in which they are stored: rounding may have made them equal.
            stored = jax.dtypes.canonicalize_dtype(np.float64)
            wrong = ~(np.asarray(low, stored) < np.asarray(high, stored))
            if wrong.any():
                place = f" in {name_entries(wrong)}" if wrong.ndim else ""
                raise ValueError(f"`low` is not below `high`{place}: give the range of the data")

    @property
    def shape(self) -> Shape:
        """The shape of the bounds, or `None` if both are numbers."""
        return self._shape

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The normal quantile of the position between the bounds, and the sum of `-log phi(z) - log(high - low)`.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar: minus infinity outside the bounds.
        """
        data = self._one("data", data)
        low, high, wide = like(self.low, data), like(self.high, data), widen(data)
        # Measured from the nearer bound, so that no digits are lost near either bound.
        below = wide - low <= high - wide
        tail = jnp.where(below, wide - low, high - wide) / (high - low)
        quantile = jax.scipy.special.ndtri(jnp.maximum(tail, jnp.finfo(wide.dtype).eps))
        z = jnp.where(below, quantile, -quantile)
        outside = jnp.any((wide < low) | (wide > high))
        log_det = jnp.where(outside, -jnp.inf, _log_det(z, high - low))
        return z.astype(data.dtype), log_det.astype(data.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The data whose normal quantile is `z`, and the sum of `-log phi(z) - log(high - low)`.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        z = self._one("z", z)
        low, high, wide = like(self.low, z), like(self.high, z), widen(z)
        negative = wide < 0
        tail = 0.5 * jax.scipy.special.erfc(jnp.where(negative, -wide, wide) / math.sqrt(2)) * (high - low)
        data = jnp.where(negative, low + tail, high - tail)
        # Only rounding can move it past a bound.
        data = jnp.minimum(jnp.maximum(data, low), high)
        return data.astype(z.dtype), _log_det(wide, high - low).astype(z.dtype)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """The values have to be between the bounds.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an iterator over one tuple: the fault, the remedy, and a mask of the values without the fault.
        """
        floats = as_floats(data)
        low, high, wide = like(self.low, floats), like(self.high, floats), widen(floats)
        right = (wide >= jnp.broadcast_to(low, wide.shape)) & (wide <= jnp.broadcast_to(high, wide.shape))
        yield "values outside of the bounds of `Bounded`", "move the bounds, or drop these rows", np.asarray(right)

    def _one(self, name: str, array: Data) -> Float[Array, "*shape"]:
        array = as_floats(array)
        if self.shape is not None:
            check_shape(name, array, self.shape, "one example has the shape of `low` and `high`")
        return array


def _bound(name: str, value: Numbers, remedy: str) -> Float[np.ndarray | Array, "*shape"]:
    if not isinstance(value, jax.core.Tracer):
        as_numbers(name, value, "give a bound of the data, a number or an array of numbers")
    return parameter(name, value, remedy)


def _log_det(z: Float[Array, "*shape"], width: Float[Array, "*parameter"]) -> Scalar:
    return jnp.sum(0.5 * z**2 + 0.5 * math.log(2 * math.pi) - jnp.log(width))
