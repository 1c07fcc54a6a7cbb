"""The dark squares of a checkerboard."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._density import AbstractDensity


class Checkerboard(AbstractDensity):
    """The uniform density on the 8 dark squares of a 4 x 4 checkerboard, in the scale of
    [FFJORD's code](https://github.com/rtqichen/ffjord) (Grathwohl et al. 2019,
    [arXiv:1810.01367](https://arxiv.org/abs/1810.01367)).

    The squares have side 2 and fill `[-4, 4)^2`. A square is dark if `floor(z_1 / 2) + floor(z_2 / 2)` is even. Each
    dark square is a class; the classes are numbered by columns from the left, and upwards within a column. On a dark
    square `p(z) = 1/32`; elsewhere the log-density is minus infinity.

    The mean is 0. The standard deviation of each coordinate is 2.31.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    density = fp.data.Checkerboard()
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.log_prob(jnp.array([1.0, 1.0])).round(4))  # -3.4657
    print(density.log_prob(jnp.array([1.0, -1.0])))  # -inf
    ```
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
    """Draw points and labels from [`flowprop.data.Checkerboard`][], the dark squares of a checkerboard.

    ```python
    import jax
    import flowprop as fp

    points, labels = fp.data.checkerboard(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(sorted(set(labels.tolist())))  # [0, 1, 2, 3, 4, 5, 6, 7]
    ```

    **Arguments:**

    - `n`: the number of points.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, 2)`, and labels `(n,)` in `0 ... 7`: the square.

    **Raises:** `ValueError` if `n` is negative.
    """
    return Checkerboard().sample(n, key=key)
