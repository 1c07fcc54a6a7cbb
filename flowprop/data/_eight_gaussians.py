"""Eight gaussians on a circle."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, checked
from ._density import AbstractDensity, check_positive_number


class EightGaussians(AbstractDensity):
    """Eight equally likely isotropic gaussians, with means evenly spaced on a circle.

    Class 0 is on the right; the classes are numbered anticlockwise. The defaults are those of
    [FFJORD's code](https://github.com/rtqichen/ffjord) (Grathwohl et al. 2019,
    [arXiv:1810.01367](https://arxiv.org/abs/1810.01367)): radius `4 / sqrt(2)` and standard deviation
    `0.5 / sqrt(2)`. The standard deviation of each coordinate is then 2.03. The benchmarks of torchcfm (Tong et al.
    2024, [arXiv:2302.00482](https://arxiv.org/abs/2302.00482)) have radius 5 and `std = 0.1**0.25 = 0.56`, because
    their code uses the square root of the variance 0.1 as a covariance.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    density = fp.data.EightGaussians(radius=5, std=0.5)
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.bayes_classify(jnp.array([[5.0, 0.0], [0.0, 5.0]])))  # [0 2]
    ```

    **Arguments:**

    - `radius`: the radius of the circle, positive, `4 / sqrt(2)` by default.
    - `std`: the standard deviation of each gaussian, positive, `0.5 / sqrt(2)` by default.

    **Raises:** `ValueError` if `radius` or `std` is not positive and finite.
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
    """Draw points and labels from [`flowprop.data.EightGaussians`][], gaussians on a circle.

    ```python
    import jax
    import flowprop as fp

    points, labels = fp.data.eight_gaussians(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(sorted(set(labels.tolist())))  # [0, 1, 2, 3, 4, 5, 6, 7]
    ```

    **Arguments:**

    - `n`: the number of points.
    - `radius`: the radius of the circle, positive, `4 / sqrt(2)` by default.
    - `std`: the standard deviation of each gaussian, positive, `0.5 / sqrt(2)` by default.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, 2)`, and labels `(n,)` in `0 ... 7`: the gaussian, counted anticlockwise from the right.

    **Raises:** `ValueError` if `n` is negative, or `radius` or `std` is not positive and finite.
    """
    return EightGaussians(radius, std).sample(n, key=key)
