"""The interface of all divergences, and the exact divergence."""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._types import Point, PRNGKey, Scalar, check_positive, checked
from .probes import Probes


#: A function that computes the product `J v` of the Jacobian with a tangent `v`.
Product = Callable[[Point], Point]


class AbstractDivergence(eqx.Module):
    """The divergence of a vector field, `div f = tr(df/dz)`, computed exactly or estimated with random probes.

    A likelihood integrates it along the ODE
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8). Random probes are drawn once for each solve, as in
    FFJORD ([Grathwohl et al. 2019](https://arxiv.org/abs/1810.01367), section 3.1): an estimate that changes from one
    evaluation to the next defeats adaptive step control.

    To write a divergence of your own, derive a class from this one, implement `draw` and `trace`, and define:

    - `is_exact`: a class variable, whether the trace has no random error. By default `False`.
    - `max_products`: a property, the largest number of Jacobian-vector products that `trace` holds in
      memory at once for one example. The library uses it to choose how many examples to solve at once.
    """

    is_exact: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def max_products(self) -> int:
        """The largest number of products that `trace` holds in memory at once for one example."""

    @abc.abstractmethod
    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """Draw the probes of one solve.

        **Arguments:**

        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key; `None` is enough for a divergence that draws nothing.

        **Returns:** `n` probes, `(n, *shape)`. A divergence that draws nothing returns an array of shape `(0, *shape)`.

        **Raises:** `ValueError` if the divergence is random and `key` is `None`.
        """

    @abc.abstractmethod
    def trace(self, product: Product, probes: Probes) -> Scalar:
        """Compute or estimate the trace of a Jacobian.

        **Arguments:**

        - `product`: a function that multiplies the Jacobian with a tangent of the shape of one example.
        - `probes`: the probes from `draw`, `(n, *shape)`.

        **Returns:** the trace, a scalar.
        """

    def value_and_divergence(self, field: Callable[[Point], Point], z: Point, probes: Probes) -> tuple[Point, Scalar]:
        """Compute `field(z)` and its divergence with forward-mode products that share one evaluation of `field`.

        **Arguments:**

        - `field`: a function that maps one example to an array of the same shape.
        - `z`: one example, of any shape.
        - `probes`: the probes from `draw`, `(n, *shape)`.

        **Returns:** `(value, divergence)`: an array of the shape of `z`, and a scalar.
        """
        value, product = jax.linearize(field, z)
        return value, self.trace(product, probes)


@checked
class ExactDivergence(AbstractDivergence):
    """The exact trace of the Jacobian, `sum_i e_i . J e_i`, with one Jacobian-vector product for each dimension.

    It evaluates eq. 8 of [Chen et al. 2018](https://arxiv.org/abs/1806.07366) without random error. If there are
    at most `products_at_once` dimensions, it computes all products at once. Otherwise it computes them in groups, one
    group after another, so that memory does not grow with the dimension. A gradient through the trace computes each
    group again.

    **Arguments:**

    - `products_at_once`: how many products of one example to compute at once. By default 64. It needs the memory of
      that many evaluations of the network, for each of the examples that are solved together.

    **Raises:** `ValueError` if `products_at_once` is not positive.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    z = jnp.array([0.5, -1.0])
    matrix = jnp.array([[1.0, 5.0], [2.0, 3.0]])
    divergence = fp.ExactDivergence(products_at_once=16)
    probes = divergence.draw(z, key=None)
    value, trace = divergence.value_and_divergence(lambda z: matrix @ z, z, probes)
    print(trace)  # 4.0
    ```
    """

    is_exact: ClassVar[bool] = True

    # Not in the repr: the trace does not depend on it.
    products_at_once: int = eqx.field(static=True, default=64, repr=False)

    def __check_init__(self) -> None:
        check_positive(products_at_once=self.products_at_once)

    @property
    def max_products(self) -> int:
        """The same as `products_at_once`."""
        return self.products_at_once

    def draw(self, z: Point, *, key: PRNGKey | None) -> Probes:
        """Return no probes, an array of shape `(0, *shape)`.

        `trace` makes the unit vectors itself: all of them together would be a d x d matrix for each example.

        **Arguments:**

        - `z`: an array of the shape and type of one example.
        - `key`: not used.

        **Returns:** an empty array, `(0, *shape)`.
        """
        return jnp.zeros((0, *z.shape), z.dtype)

    def trace(self, product: Product, probes: Probes) -> Scalar:
        """Compute the trace from products with the unit vectors.

        **Arguments:**

        - `product`: a function that multiplies the Jacobian with a tangent of the shape of one example.
        - `probes`: the empty array from `draw`; only its shape and type are used.

        **Returns:** the trace, a scalar.
        """
        shape, dtype = probes.shape[1:], probes.dtype
        size = math.prod(shape)
        num_groups = -(-size // self.products_at_once)
        group_size = -(-size // num_groups)

        def part(start: Int[Array, ""] | int) -> Scalar:
            # Tangents with an index beyond the last dimension are zero and add nothing.
            rows = (start + jnp.arange(group_size))[:, None] == jnp.arange(size)[None]
            tangents = rows.astype(dtype).reshape(group_size, *shape)
            return jnp.sum(tangents * jax.vmap(product)(tangents))

        if num_groups == 1:
            return part(0)
        return jnp.sum(jax.lax.map(jax.checkpoint(part), group_size * jnp.arange(num_groups)))
