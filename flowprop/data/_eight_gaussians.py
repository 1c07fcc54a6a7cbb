"""Eight gaussians on a ring."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._density import AbstractDensity, check_positive_number


class EightGaussians(AbstractDensity):
    """Eight equally likely isotropic gaussians, whose means lie evenly on a circle, the first on the right.

    The defaults are FFJORD's (arXiv:1810.01367): radius `4 / sqrt(2)`, standard deviation `0.5 / sqrt(2)`; each
    coordinate's standard deviation is then 2.03. The benchmarks of torchcfm (arXiv:2302.00482) have radius 5 and
    `std = 0.1**0.25 = 0.56` (the root of its variance 0.1 is handed over as a covariance).

    **Arguments:**

    - `radius`: of the circle.
    - `std`: standard deviation of each gaussian, positive.

    **Raises:** `ValueError` if `radius` or `std` is not positive.
    """

    radius: float = eqx.field(default=4 / math.sqrt(2), converter=float, static=True)
    std: float = eqx.field(default=0.5 / math.sqrt(2), converter=float, static=True)

    def __check_init__(self) -> None:
        check_positive_number("radius", self.radius)
        check_positive_number("std", self.std)

    @property
    def dim(self) -> int:
        return 2

    @property
    def priors(self) -> tuple[float, ...]:
        return (1 / 8,) * 8

    def _draw(self, labels: Int[Array, " n"], key: PRNGKey) -> Float[Array, "n 2"]:
        return self._means()[labels] + self.std * jax.random.normal(key, (len(labels), 2))

    def _class_log_prob(self, z: Float[Array, "2"]) -> Float[Array, "8"]:
        square = jnp.sum((z[None, :] - self._means()) ** 2, axis=-1)
        return -square / (2 * self.std**2) - math.log(2 * math.pi * self.std**2)

    def _means(self) -> Float[Array, "8 2"]:
        angle = jnp.arange(8) * (math.pi / 4)
        return self.radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


@checked
def eight_gaussians(
    n: int, radius: float | int = 4 / math.sqrt(2), std: float | int = 0.5 / math.sqrt(2), *, key: PRNGKey
) -> tuple[Float[Array, "{n} 2"], Int32[Array, "{n}"]]:
    """Draw from [`flowprop.data.EightGaussians`][].

    **Arguments:**

    - `n`: how many points.
    - `radius`: of the circle of means.
    - `std`: standard deviation of each gaussian, positive.
    - `key`: a typed key.

    **Returns:** points `(n, 2)`, labels `(n,)` in `0 ... 7`, the gaussian, counted anticlockwise from the right.

    **Raises:** `ValueError` if `n` is negative, or `radius` or `std` not positive.
    """
    return EightGaussians(radius, std).sample(n, key=key)
