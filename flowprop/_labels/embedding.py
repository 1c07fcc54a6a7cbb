"""Label embeddings: one point for each class."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checked import described
from .._frozen import Frozen, unfrozen
from .._types import PRNGKey, Real, check_key, check_number, checked, is_traced
from .labelled import as_labels


@checked
class Embedding(eqx.Module):
    """A label embedding: one point `u_k` for each class `k`.

    The flow of a [`flowprop.Classifier`][] carries noise to these points. They are trained along with the model unless
    they are [`flowprop.Frozen`][].

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    corners = jnp.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])  # three classes in two dimensions
    embedding = fp.Embedding(corners, norm=1.0)
    points = embedding([2, 0])
    print(points.shape, embedding.num_classes)  # (2, 2) 3
    ```

    **Arguments:**

    - `rows`: an array `(classes, *shape)` of floating-point numbers, or such an array in [`flowprop.Frozen`][] if it is
      not trained.
    - `norm`: the length to which every row is rescaled, or `None` to use the rows as they are. Give a norm if the rows
      are trained: otherwise they can lower the loss simply by growing, since the noise does not grow with them.

    **Raises:** `ValueError` if a row is not finite, if `norm` is not positive and finite, or if `norm` is given and a
    row is 0; `TypeError` if the rows are not floating-point numbers.
    """

    rows: Array | Frozen
    norm: Real | None = None

    def __check_init__(self) -> None:
        rows = unfrozen(self.rows)
        if self.norm is not None:
            check_number("norm", self.norm, above=0, remedy="give a positive length, or `None`")
        if rows.ndim == 0 or not jnp.issubdtype(rows.dtype, jnp.floating):
            raise TypeError(f"`rows` is {described(rows)}: give floating-point numbers (classes, *shape)")
        if is_traced(rows):
            return
        known = np.asarray(rows, np.float64)
        if not np.all(np.isfinite(known)):
            raise ValueError("`rows` holds values that are not finite: give a finite point for each class")
        lengths = np.max(np.abs(known), axis=tuple(range(1, known.ndim)), initial=0)
        if self.norm is not None and not np.all(lengths):
            raise ValueError(
                f"`rows` is 0 for class {np.argmin(lengths)}, which has no direction: give other rows, or `norm=None`"
            )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return unfrozen(self.rows).shape[0]

    @property
    def matrix(self) -> Float[Array, "classes *shape"]:
        """The points of all classes, rescaled to `norm` if there is one."""
        rows = unfrozen(self.rows)
        if self.norm is None:
            return rows
        square = jnp.sum(jnp.square(rows), axis=range(1, rows.ndim), keepdims=True)
        return self.norm * rows * jax.lax.rsqrt(square)

    @checked
    def __call__(self, labels: Any) -> Float[Array, "batch *shape"]:
        """The points of some labels.

        **Arguments:**

        - `labels`: classes, integers `(n,)` in [0, classes): an array or a list.

        **Returns:** points `(n, *shape)`; NaN for a label out of range.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`.
        """
        labels = jnp.asarray(as_labels(labels))
        # NumPy's convention would return the last row for -1.
        return self.matrix.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@checked
def one_hot_embedding(num_classes: int, *, norm: Real = 1.0) -> Embedding:
    """A label embedding by one-hot vectors times `norm`. It is not trained.

    ```python
    import flowprop as fp

    embedding = fp.one_hot_embedding(10)
    print(embedding.matrix.shape)  # (10, 10)
    ```

    **Arguments:**

    - `num_classes`: the number of classes, at least 2.
    - `norm`: the length of each vector, positive. Keep it near 1: the noise has unit variance, so much longer vectors
      are recognised even at times when they are mostly noise.

    **Returns:** an [`flowprop.Embedding`][] with points of shape `(num_classes,)`.

    **Raises:** `ValueError` for fewer than 2 classes, or if `norm` is not positive and finite.
    """
    check_classes(num_classes)
    check_norm(norm)
    return Embedding(Frozen(norm * jnp.eye(num_classes)))


@checked
def learned_embedding(num_classes: int, dim: int, *, norm: Real = 1.0, key: PRNGKey) -> Embedding:
    """A trained label embedding, which starts in random directions. Its points stay on a sphere.

    ```python
    import flowprop as fp
    import jax

    embedding = fp.learned_embedding(10, 20, key=jax.random.key(0))
    print(embedding.matrix.shape)  # (10, 20)
    ```

    **Arguments:**

    - `num_classes`: the number of classes, at least 2.
    - `dim`: the number of dimensions of a point, positive.
    - `norm`: the radius of the sphere, positive. Training cannot change it.
    - `key`: a typed key for the initial directions.

    **Returns:** an [`flowprop.Embedding`][] with points of shape `(dim,)`.

    **Raises:** `ValueError` for fewer than 2 classes, or if `dim` or `norm` is not positive and finite.
    """
    _check_sizes(num_classes, dim, norm, key)
    return Embedding(jax.random.normal(key, (num_classes, dim)), norm)


@checked
def orthogonal_embedding(num_classes: int, dim: int, *, norm: Real = 1.0, key: PRNGKey) -> Embedding:
    """A trained label embedding, which starts with orthogonal points. They stay on a sphere.

    This is the initial embedding of section 2.3 of [NoProp](https://arxiv.org/abs/2503.24322). If `dim` is less than
    `num_classes`, not all points can be orthogonal. They then start as a random tight frame (a matrix with orthonormal
    columns) whose rows are rescaled to `norm`.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    matrix = fp.orthogonal_embedding(10, 20, key=jax.random.key(0)).matrix
    print(bool(jnp.allclose(matrix @ matrix.T, jnp.eye(10), atol=1e-5)))  # True
    ```

    **Arguments:**

    - `num_classes`: the number of classes, at least 2.
    - `dim`: the number of dimensions of a point, positive.
    - `norm`: the radius of the sphere, positive. Training cannot change it.
    - `key`: a typed key for the initial rotation.

    **Returns:** an [`flowprop.Embedding`][] with points of shape `(dim,)`.

    **Raises:** `ValueError` for fewer than 2 classes, or if `dim` or `norm` is not positive and finite.
    """
    _check_sizes(num_classes, dim, norm, key)
    return Embedding(jax.nn.initializers.orthogonal()(key, (num_classes, dim)), norm)


def _check_sizes(num_classes: int, dim: int, norm: Real, key: PRNGKey) -> None:
    check_classes(num_classes)
    check_key("key", key)
    check_norm(norm)
    if dim < 1:
        raise ValueError(f"`dim` is {dim}: give the positive number of dimensions of a point")


def check_norm(norm: Real) -> None:
    check_number("norm", norm, above=0, remedy="give the positive length of an embedding")


def check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"`num_classes` is {num_classes}: give at least 2 classes")
