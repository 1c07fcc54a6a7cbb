"""A curve in the shape of the letter S."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._curve import fejer_rule, noisy_curve_log_prob, num_nodes
from ._density import AbstractDensity, check_positive_number


_LENGTH = 1.5 * math.pi


class SCurve(AbstractDensity):
    """The letter S with gaussian noise: the first and third coordinate of scikit-learn's
    [`make_s_curve`](https://scikit-learn.org/stable/modules/generated/sklearn.datasets.make_s_curve.html).

    With `t` uniform on `[0, 3 pi / 2]`, class 0 is the upper arc `(-sin t, 1 - cos t)`, and class 1 is its mirror image
    in the origin. Isotropic gaussian noise is added to both. The classes are equally likely. The density is an integral
    over `t`, computed by quadrature with an error of 1e-6 or less in float64.

    The mean is 0. The standard deviations of the coordinates are 0.71 and 1.39 at `noise = 0.1`.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    density = fp.data.SCurve(noise=0.1)
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.bayes_classify(jnp.array([[0.0, 2.0], [0.0, -2.0]])))  # [0 1]
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
        place_key, noise_key = jax.random.split(key)
        clean = _arc(jax.random.uniform(place_key, labels.shape, maxval=_LENGTH))
        sign = (1 - 2 * labels)[:, None]
        return sign * clean + self.noise * jax.random.normal(noise_key, clean.shape)

    def _class_log_prob(self, z: Float[Array, "2"]) -> Float[Array, "2"]:
        t, weights = fejer_rule(_LENGTH, num_nodes(_LENGTH / 2, self.noise))
        arc = _arc(jnp.asarray(t, z.dtype))
        log_weights = np.log(weights / _LENGTH)
        return jnp.stack([noisy_curve_log_prob(z, sign * arc, log_weights, self.noise) for sign in (1, -1)])


def _arc(t: Float[Array, " n"]) -> Float[Array, "n 2"]:
    return jnp.stack([-jnp.sin(t), 1 - jnp.cos(t)], axis=-1)


@checked
def s_curve(n: int, noise: float | int = 0.1, *, key: PRNGKey) -> tuple[Float[Array, "{n} 2"], Int32[Array, "{n}"]]:
    """Draw points and labels from [`flowprop.data.SCurve`][], a curve in the shape of the letter S.

    ```python
    import jax
    import flowprop as fp

    points, labels = fp.data.s_curve(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(sorted(set(labels.tolist())))  # [0, 1]
    ```

    **Arguments:**

    - `n`: the number of points.
    - `noise`: the standard deviation of the gaussian noise, positive, 0.1 by default.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, 2)`, and labels `(n,)`: 0 for the upper arc, 1 for the lower arc.

    **Raises:** `ValueError` if `n` is negative, or `noise` is not positive and finite.
    """
    return SCurve(noise).sample(n, key=key)
