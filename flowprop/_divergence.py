"""The divergence of a vector field: the trace of its Jacobian, exact or by random probes."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Point, PRNGKey, Scalar, checked


class AbstractDivergence(eqx.Module):
    """An estimator of `div f = tr(df/dz)` that returns the field's value along with it.

    The tangents along which the Jacobian is taken are drawn once per solve: an estimate that
    changes from one evaluation to the next defeats adaptive step control.
    """

    @abc.abstractmethod
    def tangents(self, z: Point, *, key: PRNGKey | None) -> Float[Array, "tangents *shape"]:
        """The directions of the Jacobian-vector products of one solve."""

    @abc.abstractmethod
    def trace(self, tangents: Float[Array, "tangents *shape"], products: Float[Array, "tangents *shape"]) -> Scalar:
        """The trace that the products `J v` stand for."""

    def value_and_divergence(
        self, field: Callable[[Point], Point], z: Point, tangents: Float[Array, "tangents *shape"]
    ) -> tuple[Point, Scalar]:
        """`field(z)` and its divergence, by forward-mode products that share one evaluation."""
        value, product = jax.linearize(field, z)
        return value, self.trace(tangents, jax.vmap(product)(tangents))


class ExactDivergence(AbstractDivergence):
    """The trace itself, by as many Jacobian-vector products as there are dimensions."""

    def tangents(self, z: Point, *, key: PRNGKey | None) -> Float[Array, "tangents *shape"]:
        return jnp.eye(z.size, dtype=z.dtype).reshape(z.size, *z.shape)

    def trace(self, tangents: Float[Array, "tangents *shape"], products: Float[Array, "tangents *shape"]) -> Scalar:
        return jnp.sum(tangents * products)


@checked
class HutchinsonDivergence(AbstractDivergence):
    """The mean of `v . J v` over probes `v` with entries +1 or -1 (Hutchinson 1990).

    Unbiased; its variance falls as `1 / num_probes` and is 0 for a diagonal Jacobian.

    **Arguments:**

    - `num_probes`: how many probes, each one Jacobian-vector product.

    **Raises:** `ValueError` if `num_probes` is not positive.
    """

    num_probes: int = 1

    def __check_init__(self) -> None:
        if self.num_probes < 1:
            raise ValueError(f"`num_probes` is {self.num_probes}: an estimate needs at least one probe")

    def tangents(self, z: Point, *, key: PRNGKey | None) -> Float[Array, "tangents *shape"]:
        if key is None:
            raise ValueError("`key` is None: probes are random, so give `jax.random.key(seed)`")
        return jax.random.rademacher(key, (self.num_probes, *z.shape), z.dtype)

    def trace(self, tangents: Float[Array, "tangents *shape"], products: Float[Array, "tangents *shape"]) -> Scalar:
        return jnp.sum(tangents * products) / self.num_probes
