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
    """Two interleaved half circles with gaussian noise, in the geometry of scikit-learn's
    [`make_moons`](https://scikit-learn.org/stable/modules/generated/sklearn.datasets.make_moons.html).

    With `a` uniform on `[0, pi]`, class 0 is the outer moon `(cos a, sin a)`, and class 1 is the inner moon
    `(1 - cos a, 1/2 - sin a)`. Isotropic gaussian noise is added to both. The classes are equally likely. The density
    is an integral over `a`, computed by quadrature with an error of 1e-6 or less in float64.

    The mean is `(0.5, 0.25)`. The standard deviations of the coordinates are 0.87 and 0.50 at `noise = 0.1`.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    density = fp.data.TwoMoons(noise=0.1)
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.log_prob(jnp.array([0.0, 1.0])).round(2))  # -0.45
    print(density.bayes_classify(jnp.array([0.0, 1.0])))  # 0
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
    """Draw points and labels from [`flowprop.data.TwoMoons`][], two interleaved half circles.

    ```python
    import jax
    import flowprop as fp

    points, labels = fp.data.two_moons(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(sorted(set(labels.tolist())))  # [0, 1]
    ```

    **Arguments:**

    - `n`: the number of points.
    - `noise`: the standard deviation of the gaussian noise, positive, 0.1 by default.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, 2)`, and labels `(n,)`: 0 for the outer moon, 1 for the inner moon.

    **Raises:** `ValueError` if `n` is negative, or `noise` is not positive and finite.
    """
    return TwoMoons(noise).sample(n, key=key)
