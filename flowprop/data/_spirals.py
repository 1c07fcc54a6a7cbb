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
    """Two Archimedean spirals of one and a half turns, in the scale of FFJORD (arXiv:1810.01367).

    With `t = 3 pi sqrt(u)` and `u` uniform on `[0, 1]`, class 0 is `(-t cos t, t sin t) / 3`, class 1 its mirror image
    in the origin, each moved by gaussian noise; the classes are equally likely. FFJORD's further uniform jitter, which
    pulls the arms apart by 0.08, is left out. The density, the integral over `t`, whose own density is
    `2 t / (3 pi)^2`, is found by quadrature, to 1e-6 or better in float64.

    Points lie within about 3.4 of the origin, the mean; the coordinates' standard deviations are 1.60 and 1.55.

    **Arguments:**

    - `noise`: standard deviation of the noise, positive. Evaluating the density costs time in inverse proportion to it.

    **Raises:** `ValueError` if `noise` is not positive.
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
    """Draw from [`flowprop.data.Spirals`][].

    **Arguments:**

    - `n`: how many points.
    - `noise`: standard deviation of the noise, positive.
    - `key`: a typed key.

    **Returns:** points `(n, 2)`, labels `(n,)` in {0, 1}, the spiral.

    **Raises:** `ValueError` if `n` is negative or `noise` not positive.
    """
    return Spirals(noise).sample(n, key=key)
