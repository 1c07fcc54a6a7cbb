"""Hutchinson's estimator."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar, check_positive, checked
from .divergence import AbstractDivergence, Product
from .probes import AbstractProbes, Probes, RademacherProbes, require_key


@checked
class HutchinsonDivergence(AbstractDivergence):
    """The mean of `v . J v` over probes `v` (Hutchinson 1990).

    Unbiased; its variance falls as `1 / num_probes`. With entries +1 or -1 it is 0 for a diagonal
    Jacobian.

    **Arguments:**

    - `num_probes`: how many probes, each one Jacobian-vector product.
    - `distribution`: of the probes. By default [`flowprop.RademacherProbes`][]`()`.

    **Raises:** `ValueError` if `num_probes` is not positive.
    """

    is_exact: ClassVar[bool] = False

    num_probes: int = 1
    distribution: AbstractProbes = RademacherProbes()

    def __check_init__(self) -> None:
        check_positive(num_probes=self.num_probes)

    @property
    def max_products(self) -> int:
        """All of them."""
        return self.num_probes

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        return self.distribution.sample(self.num_probes, z, key=require_key(key))

    def trace(self, product: Product, probes: Probes) -> Scalar:
        return jnp.sum(probes * jax.vmap(product)(probes)) / self.num_probes
