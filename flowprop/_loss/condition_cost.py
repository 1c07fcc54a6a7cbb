"""The cost of pairing noise of one condition with data of another condition."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .._types import Real, check_number, check_shape, checked
from .assignment import Cost


Batch = Float[Array, "batch *shape"]


class AbstractConditionCost(eqx.Module):
    """The cost of pairing noise of one condition with data of another condition.

    A cost of your own defines `add`.
    """

    @abc.abstractmethod
    def add(self, cost: Cost, x: PyTree) -> Cost:
        """Add the cost of the conditions to the cost of the points. Equal conditions cost nothing.

        **Arguments:**

        - `cost`: the cost of noise `i` with data `j`, `(n, n)`.
        - `x`: the conditions of the batch, each leaf with the batch axis. Noise `i` has the condition `x[i]`, data `j`
          the condition `x[j]`.

        **Returns:** the total cost, `(n, n)`.
        """


class ClassCost(AbstractConditionCost):
    """An infinite cost for different conditions: optimal transport within each class. It leaves no bias.

    It is for labels, as integers, one-hot or embedded. If all conditions in a batch differ, only one assignment has a
    finite cost, and the coupling is the same as the independent one.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    labels = jnp.array([0, 0, 1])
    print(fp.ClassCost().add(jnp.ones((3, 3)), labels)[0])  # [ 1.  1. inf]
    coupling = fp.ConditionalOTCoupling(fp.ClassCost())
    ```
    """

    def add(self, cost: Cost, x: PyTree) -> Cost:
        return jnp.where(_different(x), jnp.inf, cost)


@checked
class DistanceCost(AbstractConditionCost):
    """The cost `w |x_i - x_j|^2`, for continuous conditions: noise is paired with data of a similar condition.

    In each batch the weight `w` is chosen so that the fraction `ratio` of all pairs costs no more than the original
    pair of the data (the data and the noise that came with it) ([Cheng & Schwing
    2025](https://arxiv.org/abs/2503.10636), section 3). A small ratio leaves little bias; a large ratio gives straight
    paths. The common scale of the conditions does not matter. The scale of one component relative to another does.

    **Arguments:**

    - `ratio`: between 0 and 1. By default 0.05.

    **Raises:** `ValueError` if `ratio` is not between 0 and 1.

    ```python
    import flowprop as fp
    import jax

    keys = jax.random.split(jax.random.key(0), 3)
    z0, z1, x = (jax.random.normal(key, (16, 2)) for key in keys)
    coupling = fp.ConditionalOTCoupling(fp.DistanceCost(0.05))
    print(coupling.pair(z0, z1, x, key=jax.random.key(1)).shape)  # (16, 2)
    ```
    """

    ratio: Real = 0.05

    def __check_init__(self) -> None:
        check_number("ratio", self.ratio, above=0, below=1, remedy="a fraction of all pairs lies between 0 and 1")

    def add(self, cost: Cost, x: PyTree) -> Cost:
        rows = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)]
        vectors = jnp.concatenate(rows, axis=1).astype(cost.dtype)
        distances = jnp.where(_different(x), squared_distances(vectors, vectors), 0)
        # Scaled so that a weight near 1 is sensible.
        distances *= jnp.mean(cost) / jnp.maximum(jnp.mean(distances), 1e-30)

        def with_weight(exponent: Array) -> Cost:
            return cost + 2**exponent * distances

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) / 2
            light = jnp.mean(with_weight(middle) <= jnp.diagonal(cost)[None, :]) > self.ratio
            return jnp.where(light, middle, low), jnp.where(light, high, middle)

        bounds = (jnp.asarray(-20, cost.dtype), jnp.asarray(20, cost.dtype))
        return with_weight(jax.lax.fori_loop(0, 20, halve, bounds)[1])


def squared_distances(z0: Float[Array, "batch ..."], z1: Float[Array, "..."]) -> Cost:
    """`|z0_i - z1_j|^2`, computed by a matrix product: an array of all differences would need `d` times the memory."""
    check_shape("z1", z1, z0.shape, "noise and data of one batch have the same shape")
    dtype = jnp.promote_types(jnp.result_type(z0, z1), jnp.float32)
    a, b = (jnp.reshape(z, (len(z), -1)).astype(dtype) for z in (z0, z1))
    # Relative to their centre, so that few digits are lost to cancellation.
    centre = jnp.mean(b, axis=0, keepdims=True)
    a, b = a - centre, b - centre
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :]
    return jax.lax.stop_gradient(jnp.maximum(squares - 2 * product, 0))


def _different(x: PyTree) -> Bool[Array, "batch batch"]:
    """Whether two conditions differ, in any number of any leaf."""
    vectors = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)]
    return jnp.any(jnp.stack([jnp.any(v[:, None] != v[None], axis=-1) for v in vectors]), axis=0)
