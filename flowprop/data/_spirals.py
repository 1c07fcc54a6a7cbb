"""Two interleaved spirals."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._curve import fejer_rule, noisy_curve_log_prob, num_nodes
from ._density import AbstractDensity, check_positive_number


_TURN = 3 * math.pi


class Spirals(AbstractDensity):
    """Two Archimedean spirals of one and a half turns with gaussian noise, in the scale of
    [FFJORD's code](https://github.com/rtqichen/ffjord) (Grathwohl et al. 2019,
    [arXiv:1810.01367](https://arxiv.org/abs/1810.01367)).

    With `t = 3 pi sqrt(u)` and `u` uniform on `[0, 1]`, class 0 is `(-t cos t, t sin t) / 3`, and class 1 is its mirror
    image in the origin. Isotropic gaussian noise is added to both. The classes are equally likely. FFJORD also adds a
    uniform jitter, which moves the arms apart by 0.08; it is left out here. The parameter `t` has the density
    `2 t / (3 pi)^2`. The density of a point is an integral over `t`, computed by quadrature with an error of 1e-6 or
    less in float64.

    The mean is 0, and points lie within about 3.4 of it. The standard deviations of the coordinates are 1.60 and 1.55.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    density = fp.data.Spirals(noise=0.1)
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.class_log_prob(jnp.zeros(2)).shape)  # (2,)
    ```

    **Arguments:**

    - `noise`: the standard deviation of the noise, positive, 0.1 by default. The time to evaluate the density is
      inversely proportional to it.

    **Raises:** `ValueError` if `noise` is not positive and finite.
    """

    noise: float = eqx.field(default=0.1, converter=float, static=True)

    def __check_init__(self) -> None:
        check_positive_number("noise", self.noise)

    @property
    def dim(self) -> int:
        return 2

    @property
    def priors(self) -> tuple[float, ...]:
        return (0.5, 0.5)

    def _draw(self, labels: Int[Array, " n"], key: PRNGKey) -> Float[Array, "n 2"]:
        turn_key, noise_key = jax.random.split(key)
        clean = _spiral(_TURN * jnp.sqrt(jax.random.uniform(turn_key, labels.shape)))
        sign = (1 - 2 * labels)[:, None]
        return sign * clean + self.noise * jax.random.normal(noise_key, clean.shape)

    def _class_log_prob(self, z: Float[Array, "2"]) -> Float[Array, "2"]:
        t, weights = fejer_rule(_TURN, num_nodes(_TURN / 2, self.noise))
        spiral = _spiral(jnp.asarray(t, z.dtype))
        log_weights = np.log(weights * 2 * t / _TURN**2)
        return jnp.stack([noisy_curve_log_prob(z, sign * spiral, log_weights, self.noise) for sign in (1, -1)])


def _spiral(t: Float[Array, " n"]) -> Float[Array, "n 2"]:
    return jnp.stack([-t * jnp.cos(t), t * jnp.sin(t)], axis=-1) / 3


@checked
def spirals(n: int, noise: float | int = 0.1, *, key: PRNGKey) -> tuple[Float[Array, "{n} 2"], Int32[Array, "{n}"]]:
    """Draw points and labels from [`flowprop.data.Spirals`][], two interleaved spirals.

    ```python
    import jax
    import flowprop as fp

    points, labels = fp.data.spirals(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(sorted(set(labels.tolist())))  # [0, 1]
    ```

    **Arguments:**

    - `n`: the number of points.
    - `noise`: the standard deviation of the gaussian noise, positive, 0.1 by default.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, 2)`, and labels `(n,)`, 0 or 1: the spiral.

    **Raises:** `ValueError` if `n` is negative, or `noise` is not positive and finite.
    """
    return Spirals(noise).sample(n, key=key)
