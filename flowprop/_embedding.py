"""Classes as points."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._checked import described
from ._frozen import Frozen, unfrozen
from ._labelled import as_labels
from ._types import PRNGKey, Real, check_key, check_number, checked, is_traced


@checked
class Embedding(eqx.Module):
    """One point for each class: the clean end `u_y` of a label's flow.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    embedding = fp.Embedding(jnp.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]), norm=1.0)  # three classes, trained
    points = embedding([2, 0])  # (2, 2)
    ```

    **Arguments:**

    - `rows`: an array `(classes, *shape)` of floating-point numbers, or the same in [`flowprop.Frozen`][].
    - `norm`: the length that every row is given, or `None` to leave the rows as they are. Embeddings
      that are learned need it: the loss falls when they grow and the noise does not.

    **Raises:** `ValueError` if a row is not finite, `norm` is not positive and finite, or a row that is to have a norm
    is 0; `TypeError` if the rows are not floating-point numbers.
    """

    rows: Array | Frozen
    norm: Real | None = None

    def __check_init__(self) -> None:
        rows = unfrozen(self.rows)
        if self.norm is not None:
            check_number("norm", self.norm, above=0, remedy="give the positive length of an embedding, or `None`")
        if rows.ndim == 0 or not jnp.issubdtype(rows.dtype, jnp.floating):
            raise TypeError(f"`rows` is {described(rows)}: give floating-point numbers (classes, *shape)")
        if is_traced(rows):
            return
        known = np.asarray(rows, np.float64)
        if not np.all(np.isfinite(known)):
            raise ValueError("`rows` holds values that are not finite: give each class a point")
        lengths = np.max(np.abs(known), axis=tuple(range(1, known.ndim)), initial=0)
        if self.norm is not None and not np.all(lengths):
            raise ValueError(
                f"`rows` has 0 for class {np.argmin(lengths)}, which has no direction: give it one, or `norm=None`"
            )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return unfrozen(self.rows).shape[0]

    @property
    def matrix(self) -> Float[Array, "classes *shape"]:
        """The embeddings, a row for each class."""
        rows = unfrozen(self.rows)
        if self.norm is None:
            return rows
        square = jnp.sum(jnp.square(rows), axis=range(1, rows.ndim), keepdims=True)
        return self.norm * rows * jax.lax.rsqrt(square)

    @checked
    def __call__(self, labels: Any) -> Float[Array, "batch *shape"]:
        """The labels' embeddings.

        **Arguments:**

        - `labels`: integers in [0, classes), `(n,)`: an array or a list.

        **Returns:** `(n, *shape)`; NaN for a label out of range.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`.
        """
        labels = jnp.asarray(as_labels(labels))
        # Not the last row for -1.
        return self.matrix.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@checked
def one_hot_embedding(num_classes: int, *, norm: Real = 1.0) -> Embedding:
    """Fixed embeddings at right angles: `norm` times the unit vectors.

    ```python
    import flowprop as fp

    embedding = fp.one_hot_embedding(10)
    ```

    **Arguments:**

    - `num_classes`: at least 2.
    - `norm`: the length of an embedding, positive. Lengths far above 1 give the label away while most of it is still
      noise.

    **Returns:** the embedding, of points `(num_classes,)`.

    **Raises:** `ValueError` for fewer than 2 classes, or a `norm` that is not positive and finite.
    """
    check_classes(num_classes)
    check_norm(norm)
    return Embedding(Frozen(norm * jnp.eye(num_classes)))


@checked
def learned_embedding(num_classes: int, dim: int, *, norm: Real = 1.0, key: PRNGKey) -> Embedding:
    """Embeddings that are trained, on a sphere, and start in random directions.

    ```python
    import flowprop as fp
    import jax

    embedding = fp.learned_embedding(10, 20, key=jax.random.key(0))
    ```

    **Arguments:**

    - `num_classes`: at least 2.
    - `dim`: the number of coordinates of an embedding.
    - `norm`: the sphere's radius, positive. It keeps the embeddings from growing.
    - `key`: a typed key for the initial directions.

    **Returns:** the embedding, of points `(dim,)`.

    **Raises:** `ValueError` for fewer than 2 classes, or a `dim` or `norm` that is not positive and finite.
    """
    _check_sizes(num_classes, dim, norm, key)
    return Embedding(jax.random.normal(key, (num_classes, dim)), norm)


@checked
def orthogonal_embedding(num_classes: int, dim: int, *, norm: Real = 1.0, key: PRNGKey) -> Embedding:
    """Embeddings that are trained, on a sphere, and start at right angles.

    (Section 2.3 of [NoProp](https://arxiv.org/abs/2503.24322).) If `dim` has no room for so many right angles, the
    embeddings start as a random tight frame (orthonormal columns) whose rows are scaled to the norm.

    ```python
    import flowprop as fp
    import jax

    embedding = fp.orthogonal_embedding(10, 20, key=jax.random.key(0))
    ```

    **Arguments:**

    - `num_classes`: at least 2.
    - `dim`: the number of coordinates of an embedding.
    - `norm`: the sphere's radius, positive. It keeps the embeddings from growing.
    - `key`: a typed key for the initial rotation.

    **Returns:** the embedding, of points `(dim,)`.

    **Raises:** `ValueError` for fewer than 2 classes, or a `dim` or `norm` that is not positive and finite.
    """
    _check_sizes(num_classes, dim, norm, key)
    return Embedding(jax.nn.initializers.orthogonal()(key, (num_classes, dim)), norm)


class EmbeddingDiagnostics(NamedTuple):
    """How well apart embeddings lie. It prints as one line.

    **Arguments:**

    - `smallest_distance`: between two embeddings.
    - `nearest_classes`: the two.
    - `norms`: the length of each embedding, `(classes,)`.
    - `effective_rank`: in how many directions they differ; 0 if they coincide.
    - `largest_rank`: in how many they could.
    """

    smallest_distance: float
    nearest_classes: tuple[int, int]
    norms: Float[np.ndarray, " classes"]
    effective_rank: float
    largest_rank: int

    def __str__(self) -> str:
        first, second = self.nearest_classes
        return (
            f"{len(self.norms)} embeddings of norm {np.min(self.norms):.3g} to {np.max(self.norms):.3g}, "
            f"smallest distance {self.smallest_distance:.3g} (classes {first} and {second}), "
            f"effective rank {self.effective_rank:.3g} of {self.largest_rank}"
        )


@checked
def embedding_diagnostics(embedding: Embedding) -> EmbeddingDiagnostics:
    """Measures embeddings, and warns if they have collapsed.

    The effective rank is `exp(-sum_i p_i log p_i)`, `p` being the singular values over their sum (Roy &
    Vetterli 2007), here of the embeddings less their mean, since a common shift tells
    no class from another. Of n embeddings in d dimensions it is at most `min(n - 1, d)`.

    A warning is given for a distance below a tenth of the mean norm, and for an effective rank below
    half of the largest.

    **Arguments:**

    - `embedding`: such as a trained classifier's. Not under `jit`.

    **Returns:** a [`flowprop.EmbeddingDiagnostics`][].

    **Raises:** `ValueError` if an embedding is not finite.
    """
    points = np.asarray(embedding.matrix, np.float64)
    points = points.reshape(len(points), -1)
    if not np.all(np.isfinite(points)):
        raise ValueError("`embedding` holds values that are not finite: its training has diverged, or a row is 0")
    norms = np.linalg.norm(points, axis=1)
    distances = np.stack([np.linalg.norm(points - point, axis=1) for point in points])
    np.fill_diagonal(distances, np.inf)
    nearest = np.unravel_index(np.argmin(distances), distances.shape)

    values = np.linalg.svd(points - np.mean(points, axis=0), compute_uv=False)
    # Smaller ones are the rounding of single precision.
    values = values[values > 1e-6 * np.max(norms)]
    shares = values / np.sum(values)
    rank = np.exp(-np.sum(shares * np.log(shares))) if values.size else 0.0

    found = EmbeddingDiagnostics(
        smallest_distance=float(distances[nearest]),
        nearest_classes=(int(nearest[0]), int(nearest[1])),
        norms=norms,
        effective_rank=float(rank),
        largest_rank=min(len(points) - 1, points.shape[1]),
    )
    if found.smallest_distance < np.mean(norms) / 10:
        warnings.warn(f"two embeddings have all but met: {found}", stacklevel=1)
    if found.effective_rank < found.largest_rank / 2:
        warnings.warn(f"the embeddings differ in few directions: {found}", stacklevel=1)
    return found


def _check_sizes(num_classes: int, dim: int, norm: Real, key: PRNGKey) -> None:
    check_classes(num_classes)
    check_key("key", key)
    check_norm(norm)
    if dim < 1:
        raise ValueError(f"`dim` is {dim}: give the positive dimension of the embeddings")


def check_norm(norm: Real) -> None:
    check_number("norm", norm, above=0, remedy="give the positive length of an embedding")


def check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"`num_classes` is {num_classes}: a classifier tells at least 2 classes apart")
