"""Hutch++."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar, checked
from .basis import orthonormal
from .divergence import AbstractDivergence, Product
from .probes import GaussianProbes, Probes, require_key


@checked
class HutchPlusPlusDivergence(AbstractDivergence):
    """Hutch++: exact on the Jacobian's dominant directions, Hutchinson on the rest (Meyer et al. 2021, algorithm 1).

    `tr(Q^T J Q) + (d - k)/k sum_i r_i . J r_i`, with `Q` an orthonormal basis of `k = m/3` directions and `r_i`
    random unit vectors at right angles to it. Unbiased whatever the basis; where the spectrum decays fast,
    its variance falls as `1 / m^2`.

    The basis spans `J s_i` for random `s_i`; the probes of the rest keep a fixed length within it, so that a
    multiple of the identity costs nothing. Gradients are taken at a fixed basis, and so are unbiased too.

    **Arguments:**

    - `num_products`: `m`, Jacobian-vector products for each evaluation, a multiple of 3: for the basis, the trace
      on it, and the rest.

    **Raises:** `ValueError` if `num_products` is not a positive multiple of 3, or leaves no rest.
    """

    is_exact: ClassVar[bool] = False

    num_products: int = 6

    def __check_init__(self) -> None:
        if self.num_products < 3 or self.num_products % 3:
            raise ValueError(f"`num_products` is {self.num_products}: Hutch++ needs a positive multiple of 3")

    @property
    def max_products(self) -> int:
        """One third of them: those for the basis, on it, and for the rest follow one another."""
        return self.num_products // 3

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        if self.num_products // 3 >= z.size:
            raise ValueError(
                f"`num_products` is {self.num_products} in {z.size} dimensions: `fp.ExactDivergence()` needs fewer"
            )
        return GaussianProbes().sample(2 * self.num_products // 3, z, key=require_key(key))

    def trace(self, product: Product, probes: Probes) -> Scalar:
        def rows(tangents: Probes) -> Probes:
            return jax.vmap(lambda row: product(row.reshape(probes.shape[1:])).ravel())(tangents)

        sketch, rest = jnp.split(probes.reshape(len(probes), -1), 2)
        basis = orthonormal(rows(sketch), sketch)
        rest = rest - (rest @ basis.T) @ basis
        rest = rest / jnp.linalg.norm(rest, axis=1, keepdims=True)
        count, dim = rest.shape
        return jnp.sum(basis * rows(basis)) + (dim - count) / count * jnp.sum(rest * rows(rest))
