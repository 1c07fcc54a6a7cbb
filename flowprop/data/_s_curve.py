"""A curve in the form of the letter S."""

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
    """The letter S: scikit-learn's curve (`sklearn.datasets.make_s_curve`) from the side, its first and third axis.

    With `t` uniform on `[0, 3 pi / 2]`, class 0 is the upper arc `(-sin t, 1 - cos t)`, class 1 its mirror image in the
    origin, each moved by gaussian noise; the classes are equally likely. The density, the integral over `t`, is found
    by quadrature, to 1e-6 or better in float64.

    The mean is 0; the coordinates' standard deviations are 0.71 and 1.39 at `noise = 0.1`.

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
    """Draw from [`flowprop.data.SCurve`][].

    **Arguments:**

    - `n`: how many points.
    - `noise`: standard deviation of the noise, positive.
    - `key`: a typed key.

    **Returns:** points `(n, 2)`, labels `(n,)`: 0 for the upper arc, 1 for the lower one.

    **Raises:** `ValueError` if `n` is negative or `noise` not positive.
    """
    return SCurve(noise).sample(n, key=key)
