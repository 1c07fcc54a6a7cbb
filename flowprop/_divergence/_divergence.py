"""What a divergence is, and the exact one."""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._types import Point, PRNGKey, Scalar, check_positive, checked
from ._probes import Probes


#: The product `J v` of the Jacobian with a tangent.
Product = Callable[[Point], Point]


class AbstractDivergence(eqx.Module):
    """An estimator of `div f = tr(df/dz)` that returns the field's value along with it.

    Probes are drawn once per solve: an estimate that changes from one evaluation to the next
    defeats adaptive step control.

    A class of your own implements `draw` and `trace` and says two things more:

    - `is_exact`: a class variable, whether the trace has no random error; by default `False`.
    - `max_products`: a property, the largest number of Jacobian-vector products that `trace` holds in
      memory at once, for one example. By it the library chooses how many examples it solves at once.
    """

    is_exact: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def max_products(self) -> int:
        """How many products of one example `trace` holds in memory at once, at most."""

    @abc.abstractmethod
    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """The probes of one solve, `(n, *shape)`; none, `(0, *shape)`, for a divergence that draws nothing.

        **Arguments:**

        - `z`: an array of the shape and type of one example.
        - `key`: for the draw.
        """

    @abc.abstractmethod
    def trace(self, product: Product, probes: Probes) -> Scalar:
        """The trace of a Jacobian.

        **Arguments:**

        - `product`: a function that multiplies the Jacobian with a tangent of the shape of one example.
        - `probes`: what `draw` has returned.
        """

    def value_and_divergence(self, field: Callable[[Point], Point], z: Point, probes: Probes) -> tuple[Point, Scalar]:
        """`field(z)` and its divergence, by forward-mode products that share one evaluation."""
        value, product = jax.linearize(field, z)
        return value, self.trace(product, probes)


@checked
class ExactDivergence(AbstractDivergence):
    """The trace itself, by as many Jacobian-vector products as there are dimensions.

    In up to `products_at_once` dimensions all products are made at once. In more dimensions they are made in groups,
    one group after another, so that memory does not grow with the dimension; a gradient through them makes each
    group again.

    **Arguments:**

    - `products_at_once`: how many products of one example are made at once, by default 64. The memory is that of as
      many evaluations of the network, for each of the examples that are solved together.

    **Raises:** `ValueError` if `products_at_once` is not positive.

    ```python
    import flowprop as fp

    divergence = fp.ExactDivergence(products_at_once=16)
    ```
    """

    is_exact: ClassVar[bool] = True

    products_at_once: int = eqx.field(static=True, default=64, repr=False)  # it does not change the trace

    def __check_init__(self) -> None:
        check_positive(products_at_once=self.products_at_once)

    @property
    def max_products(self) -> int:
        """As many as are made at once."""
        return self.products_at_once

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """No probes: `trace` makes the unit vectors, which would fill a matrix of d x d numbers for each example."""
        return jnp.zeros((0, *z.shape), z.dtype)

    def trace(self, product: Product, probes: Probes) -> Scalar:
        """The trace of a Jacobian, by its products with the unit vectors."""
        shape, dtype = probes.shape[1:], probes.dtype
        size = math.prod(shape)
        num_groups = -(-size // self.products_at_once)
        group_size = -(-size // num_groups)

        def part(start: Int[Array, ""] | int) -> Scalar:
            # Past the last dimension the tangents are zero, and add nothing.
            rows = (start + jnp.arange(group_size))[:, None] == jnp.arange(size)[None]
            tangents = rows.astype(dtype).reshape(group_size, *shape)
            return jnp.sum(tangents * jax.vmap(product)(tangents))

        if num_groups == 1:
            return part(0)
        return jnp.sum(jax.lax.map(jax.checkpoint(part), group_size * jnp.arange(num_groups)))
