"""XTrace."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar, checked
from .basis import orthonormal
from .divergence import AbstractDivergence, Product
from .probes import GaussianProbes, Probes, require_key


@checked
class XTraceDivergence(AbstractDivergence):
    """XTrace: each probe is both of the basis and of the rest (Epperly, Tropp & Webber 2024, section 2.1 and 2.3).

    The mean over i of `tr(Q_i^T J Q_i) + (d - k + 1) r_i . J r_i`, where `Q_i` is an orthonormal basis of the
    products `J w_j` of all probes but the i-th, and `r_i` what it leaves of that one, of unit length. Unbiased. With
    as many products as Hutch++ the basis is larger by half, and all of it serves each probe.

    Gradients are taken at fixed bases, and so are unbiased too.

    **Arguments:**

    - `num_products`: `2 k`, Jacobian-vector products for each evaluation: for the probes, and for the basis.

    **Raises:** `ValueError` if `num_products` is not even, below 4, or leaves no rest.
    """

    is_exact: ClassVar[bool] = False

    num_products: int = 6

    def __check_init__(self) -> None:
        if self.num_products < 4 or self.num_products % 2:
            raise ValueError(f"`num_products` is {self.num_products}: XTrace needs an even number, 4 at least")

    @property
    def max_products(self) -> int:
        """One half of them: those for the basis follow those for the probes."""
        return self.num_products // 2

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        if self.num_products // 2 > z.size:
            raise ValueError(
                f"`num_products` is {self.num_products} in {z.size} dimensions: `fp.ExactDivergence()` needs fewer"
            )
        return GaussianProbes().sample(self.num_products // 2, z, key=require_key(key))

    def trace(self, product: Product, probes: Probes) -> Scalar:
        def rows(tangents: Probes) -> Probes:
            return jax.vmap(lambda row: product(row.reshape(probes.shape[1:])).ravel())(tangents)

        omega = probes.reshape(len(probes), -1)
        count, dim = omega.shape
        images = rows(omega)
        basis = orthonormal(images, omega)
        basis_images = rows(basis)
        # In the basis' coordinates: the direction that all images but the i-th leave free. The basis without it is Q_i.
        within, coordinates = omega @ basis.T, images @ basis.T
        last = jnp.stack([jnp.roll(jnp.arange(count), -1 - index) for index in range(count)])
        free = jax.vmap(lambda order: orthonormal(coordinates[order], within[order])[-1])(last)
        small = basis @ basis_images.T
        traces = jnp.trace(small) - jnp.sum((free @ small) * free, axis=1)
        within = within - jnp.sum(free * within, axis=1, keepdims=True) * free
        rest, rest_images = omega - within @ basis, images - within @ basis_images
        ratios = jnp.sum(rest * rest_images, axis=1) / jnp.sum(jnp.square(rest), axis=1)
        return jnp.mean(traces + (dim - count + 1) * ratios)
