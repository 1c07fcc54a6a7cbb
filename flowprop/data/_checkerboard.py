"""A checkerboard's dark squares."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._density import AbstractDensity


class Checkerboard(AbstractDensity):
    """The uniform density on 8 of 16 squares, in the scale of FFJORD (arXiv:1810.01367).

    The squares have side 2 and fill `[-4, 4)^2`; the dark ones are those where `floor(z_1 / 2) + floor(z_2 / 2)` is
    even. Each is a class, counted by columns from the left and upwards within a column. Inside `p(z) = 1/32`, outside
    the log-density is minus infinity.

    The mean is 0; each coordinate's standard deviation is 2.31.
    """

    @property
    def dim(self) -> int:
        return 2

    @property
    def priors(self) -> tuple[float, ...]:
        return (1 / 8,) * 8

    def _draw(self, labels: Int[Array, " n"], key: PRNGKey) -> Float[Array, "n 2"]:
        column = labels // 2
        row = 2 * (labels % 2) + column % 2
        return 2 * (jnp.stack([column, row], axis=-1) - 2 + jax.random.uniform(key, (len(labels), 2)))

    def _class_log_prob(self, z: Float[Array, "2"]) -> Float[Array, "8"]:
        column, row = jnp.floor(z / 2) + 2
        dark = (column >= 0) & (column < 4) & (row >= 0) & (row < 4) & ((column + row) % 2 == 0)
        label = 2 * column + row // 2
        return jnp.where(dark & (jnp.arange(8) == label), -math.log(4), -jnp.inf).astype(z.dtype)


@checked
def checkerboard(n: int, *, key: PRNGKey) -> tuple[Float[Array, "{n} 2"], Int32[Array, "{n}"]]:
    """Draw from [`flowprop.data.Checkerboard`][].

    **Arguments:**

    - `n`: how many points.
    - `key`: a typed key.

    **Returns:** points `(n, 2)`, labels `(n,)` in `0 ... 7`, the square.

    **Raises:** `ValueError` if `n` is negative.
    """
    return Checkerboard().sample(n, key=key)
