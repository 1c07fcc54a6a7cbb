"""Hutchinson's estimator of a trace."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar, check_positive, checked
from .divergence import AbstractDivergence, Product
from .probes import AbstractProbes, Probes, RademacherProbes, require_key


@checked
class HutchinsonDivergence(AbstractDivergence):
    """Hutchinson's estimator: the mean of `v . J v` over random probes `v`.

    ([Hutchinson 1990](https://doi.org/10.1080/03610919008812866); for flows
    [Grathwohl et al. 2019](https://arxiv.org/abs/1810.01367), section 3.1.) The estimate is unbiased and its variance
    falls as `1 / num_probes`. With entries +1 or -1 the variance is 0 for a diagonal Jacobian.

    **Arguments:**

    - `num_probes`: how many probes to average over. Each costs one Jacobian-vector product. By default 1.
    - `distribution`: the distribution of the probes. By default [`flowprop.RademacherProbes`][]`()`.

    **Raises:** `ValueError` if `num_probes` is not positive.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    z = jnp.array([0.5, -1.0])
    divergence = fp.HutchinsonDivergence(num_probes=4)
    probes = divergence.draw(z, key=jax.random.key(0))
    print(probes.shape)  # (4, 2)
    value, trace = divergence.value_and_divergence(lambda z: jnp.array([1.0, 3.0]) * z, z, probes)
    print(trace)  # 4.0
    ```
    """

    is_exact: ClassVar[bool] = False

    num_probes: int = 1
    distribution: AbstractProbes = RademacherProbes()

    def __check_init__(self) -> None:
        check_positive(num_probes=self.num_probes)

    @property
    def max_products(self) -> int:
        """The same as `num_probes`."""
        return self.num_probes

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """Draw the probes of one solve.

        **Arguments:**

        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(num_probes, *shape)`.

        **Raises:** `ValueError` if `key` is `None`.
        """
        return self.distribution.sample(self.num_probes, z, key=require_key(key))

    def trace(self, product: Product, probes: Probes) -> Scalar:
        """Estimate the trace of a Jacobian.

        **Arguments:**

        - `product`: a function that multiplies the Jacobian with a tangent of the shape of one example.
        - `probes`: the probes from `draw`.

        **Returns:** the estimate, a scalar.
        """
        return jnp.sum(probes * jax.vmap(product)(probes)) / self.num_probes
