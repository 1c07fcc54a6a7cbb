"""Hutch++, an estimator of a trace."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar, checked
from .basis import orthonormal
from .divergence import AbstractDivergence, Product
from .probes import GaussianProbes, Probes, require_key


@checked
class HutchPlusPlusDivergence(AbstractDivergence):
    """Hutch++: the exact trace on the Jacobian's dominant directions, and Hutchinson's estimate on the others.

    `tr(Q^T J Q) + (d - k)/k sum_i r_i . J r_i` ([Meyer et al. 2021](https://arxiv.org/abs/2010.09649), algorithm 1),
    with an orthonormal basis `Q` of `k = m/3` directions and random unit vectors `r_i` orthogonal to it. The estimate
    is unbiased for any basis. If the spectrum decays fast, its variance falls as `1 / m^2`.

    The basis spans `J s_i` for random `s_i`. The vectors `r_i` have a fixed length, so that the variance is 0
    if the Jacobian is a multiple of the identity. Gradients are computed with the basis held fixed, so they are
    unbiased too.

    **Arguments:**

    - `num_products`: `m`, how many Jacobian-vector products each evaluation makes, a multiple of 3: one third for
      the basis, one third for the trace on it, and one third for the other directions. By default 6.

    **Raises:** `ValueError` if `num_products` is not a positive multiple of 3. `draw` raises a `ValueError` if a third
    of `num_products` is not smaller than the number of dimensions.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    z = jnp.ones(8)
    divergence = fp.HutchPlusPlusDivergence(num_products=6)
    probes = divergence.draw(z, key=jax.random.key(0))
    print(probes.shape)  # (4, 8)
    value, trace = divergence.value_and_divergence(lambda z: 0.5 * z, z, probes)
    print(f"{trace:.3f}")  # 4.000
    ```
    """

    is_exact: ClassVar[bool] = False

    num_products: int = 6

    def __check_init__(self) -> None:
        if self.num_products < 3 or self.num_products % 3:
            raise ValueError(f"`num_products` is {self.num_products}: Hutch++ needs a positive multiple of 3")

    @property
    def max_products(self) -> int:
        """One third of `num_products`: `trace` computes the three groups of products one after another."""
        return self.num_products // 3

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """Draw the probes of one solve.

        **Arguments:**

        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(2 num_products / 3, *shape)`.

        **Raises:** `ValueError` if `key` is `None`, or if `num_products` is too large for the number of dimensions.
        """
        if self.num_products // 3 >= z.size:
            raise ValueError(
                f"`num_products` is {self.num_products} in {z.size} dimensions: use `fp.ExactDivergence()`, "
                "which needs fewer products"
            )
        return GaussianProbes().sample(2 * self.num_products // 3, z, key=require_key(key))

    def trace(self, product: Product, probes: Probes) -> Scalar:
        """Estimate the trace of a Jacobian.

        **Arguments:**

        - `product`: a function that multiplies the Jacobian with a tangent of the shape of one example.
        - `probes`: the probes from `draw`.

        **Returns:** the estimate, a scalar.
        """

        def rows(tangents: Probes) -> Probes:
            return jax.vmap(lambda row: product(row.reshape(probes.shape[1:])).ravel())(tangents)

        sketch, rest = jnp.split(probes.reshape(len(probes), -1), 2)
        basis = orthonormal(rows(sketch), sketch)
        rest = rest - (rest @ basis.T) @ basis
        rest = rest / jnp.linalg.norm(rest, axis=1, keepdims=True)
        count, dim = rest.shape
        return jnp.sum(basis * rows(basis)) + (dim - count) / count * jnp.sum(rest * rows(rest))
