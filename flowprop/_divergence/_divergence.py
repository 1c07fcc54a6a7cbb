"""What a divergence is, and the exact one."""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Point, PRNGKey, Scalar
from ._probes import Probes


#: The product `J v` of the Jacobian with a tangent.
Product = Callable[[Point], Point]


class AbstractDivergence(eqx.Module):
    """An estimator of `div f = tr(df/dz)` that returns the field's value along with it.

    Probes are drawn once per solve: an estimate that changes from one evaluation to the next
    defeats adaptive step control.
    """

    is_exact: ClassVar[bool] = False

    @abc.abstractmethod
    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """The probes of one solve."""

    @abc.abstractmethod
    def trace(self, product: Product, probes: Probes) -> Scalar:
        """The trace, from products of the Jacobian with tangents."""

    def value_and_divergence(self, field: Callable[[Point], Point], z: Point, probes: Probes) -> tuple[Point, Scalar]:
        """`field(z)` and its divergence, by forward-mode products that share one evaluation."""
        value, product = jax.linearize(field, z)
        return value, self.trace(product, probes)


class ExactDivergence(AbstractDivergence):
    """The trace itself, by as many Jacobian-vector products as there are dimensions."""

    is_exact: ClassVar[bool] = True

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        return jnp.eye(z.size, dtype=z.dtype).reshape(z.size, *z.shape)

    def trace(self, product: Product, probes: Probes) -> Scalar:
        return jnp.sum(probes * jax.vmap(product)(probes))
