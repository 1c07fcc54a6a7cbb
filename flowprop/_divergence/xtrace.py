"""XTrace, an estimator of a trace."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar, checked
from .basis import orthonormal
from .divergence import AbstractDivergence, Product
from .probes import GaussianProbes, Probes, require_key


@checked
class XTraceDivergence(AbstractDivergence):
    """XTrace: an estimator like Hutch++ that uses each probe for the basis and for the remaining directions.

    The estimate is the mean over i of `tr(Q_i^T J Q_i) + (d - k + 1) r_i . J r_i`
    ([Epperly, Tropp & Webber 2024](https://arxiv.org/abs/2301.07825), sections 2.1 and 2.3). `Q_i` is an orthonormal
    basis of the products `J w_j` of all probes except the i-th. `r_i` is the part of the i-th probe that is
    orthogonal to `Q_i`, scaled to unit length. The estimate is unbiased. At the same number of products its basis is
    1.5 times as large as that of Hutch++, and every probe uses all of it.

    Gradients are computed with the bases held fixed, so they are unbiased too.

    **Arguments:**

    - `num_products`: `2 k`, how many Jacobian-vector products each evaluation makes, an even number: half for the
      probes and half for the basis. By default 6.

    **Raises:** `ValueError` if `num_products` is odd or below 4. `draw` raises a `ValueError` if half of
    `num_products` is larger than the number of dimensions.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    z = jnp.ones(8)
    divergence = fp.XTraceDivergence(num_products=6)
    probes = divergence.draw(z, key=jax.random.key(0))
    print(probes.shape)  # (3, 8)
    value, trace = divergence.value_and_divergence(lambda z: 0.5 * z, z, probes)
    print(f"{trace:.3f}")  # 4.000
    ```
    """

    is_exact: ClassVar[bool] = False

    num_products: int = 6

    def __check_init__(self) -> None:
        if self.num_products < 4 or self.num_products % 2:
            raise ValueError(f"`num_products` is {self.num_products}: XTrace needs an even number of at least 4")

    @property
    def max_products(self) -> int:
        """Half of `num_products`: `trace` computes the products of the basis after those of the probes."""
        return self.num_products // 2

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """Draw the probes of one solve.

        **Arguments:**

        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(num_products / 2, *shape)`.

        **Raises:** `ValueError` if `key` is `None`, or if `num_products` is too large for the number of dimensions.
        """
        if self.num_products // 2 > z.size:
            raise ValueError(
                f"`num_products` is {self.num_products} in {z.size} dimensions: use `fp.ExactDivergence()`, "
                "which needs fewer products"
            )
        return GaussianProbes().sample(self.num_products // 2, z, key=require_key(key))

    def trace(self, product: Product, probes: Probes) -> Scalar:
        """Estimate the trace of a Jacobian.

        **Arguments:**

        - `product`: a function that multiplies the Jacobian with a tangent of the shape of one example.
        - `probes`: the probes from `draw`.

        **Returns:** the estimate, a scalar.
        """

        def rows(tangents: Probes) -> Probes:
            return jax.vmap(lambda row: product(row.reshape(probes.shape[1:])).ravel())(tangents)

        omega = probes.reshape(len(probes), -1)
        count, dim = omega.shape
        images = rows(omega)
        basis = orthonormal(images, omega)
        basis_images = rows(basis)
        # In the coordinates of the basis: the direction orthogonal to all images except the i-th. The rest of the basis
        # is Q_i.
        within, coordinates = omega @ basis.T, images @ basis.T
        last = jnp.stack([jnp.roll(jnp.arange(count), -1 - index) for index in range(count)])
        free = jax.vmap(lambda order: orthonormal(coordinates[order], within[order])[-1])(last)
        small = basis @ basis_images.T
        traces = jnp.trace(small) - jnp.sum((free @ small) * free, axis=1)
        within = within - jnp.sum(free * within, axis=1, keepdims=True) * free
        rest, rest_images = omega - within @ basis, images - within @ basis_images
        ratios = jnp.sum(rest * rest_images, axis=1) / jnp.sum(jnp.square(rest), axis=1)
        return jnp.mean(traces + (dim - count + 1) * ratios)
