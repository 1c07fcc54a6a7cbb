"""Reading a class off a point among the embeddings."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Point, PRNGKey, Real, check_key, check_positive, check_shape, checked


class AbstractReadout(eqx.Module):
    """The distribution over classes at a point. It sees the point only, never the input."""

    @abc.abstractmethod
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        """Log-probabilities of the classes at `z`."""


@checked
class RadialReadout(AbstractReadout):
    """Softmax of `-|z - u_k|^2 / (2 s^2)`: each class a gaussian about its embedding (NoProp, eq. 15-16).

    The scale follows the embeddings but is not trained through them: the loss would else fall by
    drawing the nearest two together, which sharpens the readout for all others. Embeddings that
    coincide share their probability.

    **Arguments:**

    - `scale`: `s`, in units of the smallest distance between two different embeddings.

    **Raises:** `ValueError` if `scale` is not positive.
    """

    scale: Real = 0.2

    def __check_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"`scale` is {self.scale}: the readout's standard deviation is positive")

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        gaps = jax.vmap(_square_distances, in_axes=(0, None))(matrix, matrix)
        # Compiled, that of a point to itself is not always quite 0.
        differ = gaps > jnp.finfo(gaps.dtype).eps * jnp.max(gaps)
        nearest = jax.lax.stop_gradient(jnp.min(gaps, initial=jnp.inf, where=differ))
        return jax.nn.log_softmax(-_square_distances(z, matrix) / (2 * self.scale**2 * nearest))


class NearestReadout(AbstractReadout):
    """All probability to the nearest embedding, or to the first of those equally near.

    It has no gradient: made for predicting, not for training.
    """

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        distances = _square_distances(z, matrix)
        nearest = jnp.arange(distances.size) == jnp.argmin(distances)
        # The difference is 0 there, or NaN where `z` is, which is no class.
        return jnp.where(nearest, jax.lax.stop_gradient(distances - jnp.min(distances)), -jnp.inf)


class LinearReadout(AbstractReadout):
    """Softmax of a linear map of the point (NoProp, section 2.3). It has parameters of its own.

    They are trained by an objective that reads the class off a point, such as
    [`flowprop.ELBOObjective`][]. Where the embeddings lie it only learns by training.

    **Arguments:**

    - `shape`: of one embedding.
    - `num_classes`: how many log-probabilities come out.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a number that is not positive and, when called, for a point or a
    number of embeddings that differs.
    """

    linear: eqx.nn.Linear
    shape: tuple[int, ...] = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    @checked
    def __init__(self, shape: tuple[int, ...], num_classes: int, *, key: PRNGKey) -> None:
        check_key("key", key)
        check_positive(num_classes=num_classes, **{f"shape[{i}]": size for i, size in enumerate(shape)})
        self.linear = eqx.nn.Linear(math.prod(shape), num_classes, key=key)
        self.shape = shape
        self.num_classes = num_classes

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        wanted = (self.num_classes, *self.shape)
        check_shape("matrix", matrix, wanted, "make the readout for the embeddings' number and shape")
        return jax.nn.log_softmax(self.linear(jnp.ravel(z)))


def _square_distances(z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
    return jnp.sum(jnp.square(z[None] - matrix), axis=range(1, matrix.ndim))
