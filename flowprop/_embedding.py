"""Class embeddings, and reading a class off a point among them."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._frozen import Frozen, unfrozen
from ._types import Labels, Point, PRNGKey, Real, check_key, checked


@checked
class Embedding(eqx.Module):
    """One point for each class: the clean end `u_y` of a label's flow.

    **Arguments:**

    - `rows`: an array `(classes, *shape)`, or the same [`flowprop.Frozen`][].
    - `norm`: the length that every row is given, or `None` to leave them as they are. Embeddings
      that are learned need it: the loss falls when they grow and the noise does not.
    """

    rows: Array | Frozen
    norm: Real | None = None

    @property
    def matrix(self) -> Float[Array, "classes *shape"]:
        """The embeddings, a row for each class."""
        rows = unfrozen(self.rows)
        if self.norm is None:
            return rows
        square = jnp.sum(jnp.square(rows), axis=range(1, rows.ndim), keepdims=True)
        return self.norm * rows * jax.lax.rsqrt(square)

    @checked
    def __call__(self, labels: Labels) -> Float[Array, "batch *shape"]:
        """The labels' embeddings.

        **Arguments:**

        - `labels`: integers in [0, classes), `(n,)`.

        **Returns:** `(n, *shape)`; NaN for a label out of range, which would else pass for another.
        """
        return self.matrix.at[jnp.asarray(labels)].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@checked
def one_hot_embedding(num_classes: int, *, norm: Real = 1.0) -> Embedding:
    """Fixed, orthogonal embeddings: `norm` times the unit vectors.

    **Arguments:**

    - `num_classes`: at least 2.
    - `norm`: their length. Lengths far above 1 give the label away while most of it is still noise.

    **Returns:** the embedding, of points `(num_classes,)`.

    **Raises:** `ValueError` for fewer than 2 classes.
    """
    _check_classes(num_classes)
    return Embedding(Frozen(norm * jnp.eye(num_classes)))


@checked
def learned_embedding(num_classes: int, dim: int, *, norm: Real = 1.0, key: PRNGKey) -> Embedding:
    """Embeddings that are trained, on a sphere.

    **Arguments:**

    - `num_classes`: at least 2.
    - `dim`: of the space that they lie in.
    - `norm`: the sphere's radius, which keeps them from growing.
    - `key`: for the initial directions.

    **Returns:** the embedding, of points `(dim,)`.

    **Raises:** `ValueError` for fewer than 2 classes or a `dim` that is not positive.
    """
    _check_classes(num_classes)
    check_key("key", key)
    if dim < 1:
        raise ValueError(f"`dim` is {dim}: give the positive dimension of the embeddings")
    return Embedding(jax.random.normal(key, (num_classes, dim)), norm)


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"`num_classes` is {num_classes}: a classifier tells at least 2 classes apart")


class AbstractReadout(eqx.Module):
    """The distribution over classes at a point. It sees the point only, never the input."""

    @abc.abstractmethod
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        """Log-probabilities of the classes at `z`."""


@checked
class RadialReadout(AbstractReadout):
    """Softmax of `-|z - u_k|^2 / (2 s^2)`: each class a gaussian about its embedding (NoProp, eq. 15-16).

    **Arguments:**

    - `scale`: `s`, in units of the smallest distance between two embeddings.

    **Raises:** `ValueError` if `scale` is not positive.
    """

    scale: Real = 0.2

    def __check_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"`scale` is {self.scale}: the readout's standard deviation is positive")

    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        rows = matrix.reshape(matrix.shape[0], -1)
        gaps = jnp.sum(jnp.square(rows[:, None] - rows[None]), axis=-1)
        nearest = jnp.min(jnp.where(jnp.eye(rows.shape[0], dtype=bool), jnp.inf, gaps))
        distances = jnp.sum(jnp.square(jnp.ravel(z)[None] - rows), axis=-1)
        return jax.nn.log_softmax(-distances / (2 * self.scale**2 * nearest))


def nearest_class(log_probabilities: Float[Array, "*batch classes"]) -> Int[Array, "*batch"]:
    """The most probable class."""
    return jnp.argmax(log_probabilities, axis=-1)
