"""Two interleaved half circles."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._curve import fejer_rule, noisy_curve_log_prob, num_nodes
from ._density import AbstractDensity, check_positive_number


class TwoMoons(AbstractDensity):
    """Two moons in scikit-learn's geometry (`sklearn.datasets.make_moons`).

    With `a` uniform on `[0, pi]`, class 0 is the outer moon `(cos a, sin a)`, class 1 the inner one
    `(1 - cos a, 1/2 - sin a)`, each moved by gaussian noise; the classes are equally likely. The density, the
    integral over `a`, is found by quadrature, to 1e-6 or better in float64.

    Its mean is `(0.5, 0.25)`; the coordinates' standard deviations are 0.87 and 0.50 at `noise = 0.1`.

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
        angle_key, noise_key = jax.random.split(key)
        outer, inner = _moons(jax.random.uniform(angle_key, labels.shape, maxval=math.pi))
        clean = jnp.where((labels == 0)[:, None], outer, inner)
        return clean + self.noise * jax.random.normal(noise_key, clean.shape)

    def _class_log_prob(self, z: Float[Array, "2"]) -> Float[Array, "2"]:
        angles, weights = fejer_rule(math.pi, num_nodes(1.0, self.noise))
        outer, inner = _moons(jnp.asarray(angles, z.dtype))
        log_weights = np.log(weights / math.pi)
        return jnp.stack([noisy_curve_log_prob(z, moon, log_weights, self.noise) for moon in (outer, inner)])


def _moons(angle: Float[Array, " n"]) -> tuple[Float[Array, "n 2"], Float[Array, "n 2"]]:
    outer = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    inner = jnp.stack([1 - jnp.cos(angle), 0.5 - jnp.sin(angle)], axis=-1)
    return outer, inner


@checked
def two_moons(n: int, noise: float | int = 0.1, *, key: PRNGKey) -> tuple[Float[Array, "{n} 2"], Int32[Array, "{n}"]]:
    """Draw from [`flowprop.data.TwoMoons`][].

    **Arguments:**

    - `n`: how many points.
    - `noise`: standard deviation of the noise, positive.
    - `key`: a typed key.

    **Returns:** points `(n, 2)`, labels `(n,)`: 0 for the outer moon, 1 for the inner one.

    **Raises:** `ValueError` if `n` is negative or `noise` not positive.
    """
    return TwoMoons(noise).sample(n, key=key)
