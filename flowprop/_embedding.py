"""Classes as points."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ._batch import in_batches
from ._frozen import Frozen, unfrozen
from ._types import Inputs, Labels, PRNGKey, Real, check_key, check_positive, checked


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
    _check_sizes(num_classes, dim, key)
    return Embedding(jax.random.normal(key, (num_classes, dim)), norm)


@checked
def orthogonal_embedding(num_classes: int, dim: int, *, norm: Real = 1.0, key: PRNGKey) -> Embedding:
    """Embeddings that are trained, on a sphere, and begin at right angles (NoProp, section 2.3).

    Where `dim` has no room for so many right angles, they begin as a random tight frame
    (orthonormal columns) whose rows are then put to the norm.

    **Arguments:**

    - `num_classes`: at least 2.
    - `dim`: of the space that they lie in.
    - `norm`: the sphere's radius, which keeps them from growing.
    - `key`: for the initial rotation.

    **Returns:** the embedding, of points `(dim,)`.

    **Raises:** `ValueError` for fewer than 2 classes or a `dim` that is not positive.
    """
    _check_sizes(num_classes, dim, key)
    return Embedding(jax.nn.initializers.orthogonal()(key, (num_classes, dim)), norm)


@checked
def prototype_embedding(
    inputs: Inputs,
    labels: Labels,
    *,
    encoder: Callable[[Any], Any] | None = None,
    norm: Real | None = 1.0,
    trainable: bool = True,
    num_classes: int | None = None,
    max_per_class: int = 1000,
) -> Embedding:
    """Each class as its most typical example: the one of smallest median distance to the others.

    So begin the embeddings that NoProp learns as images (section 2.3). Given a norm, they lose their
    common mean first: what all share tells no class from another. Measured on `fp.data.digits()` at
    norm 1, the smallest distance is then 1.04, and with the mean 0.50.

    The norm means what it means for one-hot embeddings. The noise has unit variance in every pixel,
    but only its part along the differences of embeddings can hide a class, and that does not grow
    with the image.

    **Arguments:**

    - `inputs`: examples `(n, ...)`. Bytes are divided by 255, unless there is an encoder to do so.
    - `labels`: their classes, `(n,)`.
    - `encoder`: a callable on one input that returns an array: the space of distances and embeddings.
      By default that of the inputs themselves.
    - `norm`: the length of every embedding, or `None` for the examples as they are. In units of pixels
      they are long, which gives the label away early, and free to grow if they are trained.
    - `trainable`: whether they are trained; else they are [`flowprop.Frozen`][].
    - `num_classes`: by default one more than the largest label.
    - `max_per_class`: how many examples of a class are compared, the first ones.

    **Returns:** the embedding, of points of an input's shape or of the encoder's output's.

    **Raises:** `ValueError` if there are not as many labels as inputs, one is out of range, there are
    fewer than 2 classes, a class has no example, or a prototype is the mean of all and so has no
    direction; `TypeError` if the encoder does not return a floating-point array.
    """
    check_positive(max_per_class=max_per_class)
    members = _examples_by_class(np.asarray(labels).astype(int), num_classes, max_per_class)
    examples = jnp.asarray(np.asarray(inputs)[np.concatenate(members)])
    features = eqx.filter_jit(in_batches)(_pixels if encoder is None else encoder, (examples,), 500)
    if not eqx.is_inexact_array(features):
        raise TypeError(f"`encoder` returns {features!r} where one array of floating-point numbers is needed")

    groups = np.split(np.asarray(features), np.cumsum([len(rows) for rows in members[:-1]]))
    rows = jnp.asarray(np.stack([group[_most_typical(group.reshape(len(group), -1))] for group in groups]))
    if norm is not None:
        rows = rows - jnp.mean(rows, axis=0, keepdims=True)
        sizes = jnp.max(jnp.abs(rows.reshape(len(rows), -1)), axis=1)
        if jnp.min(sizes) <= 1e-6 * jnp.max(sizes):
            raise ValueError(f"`inputs` have the prototype of class {jnp.argmin(sizes)} at the mean: use `norm=None`")
    return Embedding(rows if trainable else Frozen(rows), norm)


def _pixels(image: Array) -> Array:
    return image / (255 if image.dtype == jnp.uint8 else 1)


def _examples_by_class(labels: np.ndarray, num_classes: int | None, max_per_class: int) -> list[np.ndarray]:
    """Where the first examples of each class are."""
    if num_classes is None:
        num_classes = int(np.max(labels, initial=-1)) + 1
    _check_classes(num_classes)
    low, high = np.min(labels, initial=0), np.max(labels, initial=0)
    if low < 0 or high >= num_classes:
        raise ValueError(f"`labels` lie in [{low}, {high}]: the classes are 0 to {num_classes - 1}")
    members = [np.flatnonzero(labels == label)[:max_per_class] for label in range(num_classes)]
    if empty := [label for label, rows in enumerate(members) if not len(rows)]:
        raise ValueError(f"`labels` have no example of the classes {empty}: give one of each, or another `num_classes`")
    return members


def _most_typical(points: Shaped[np.ndarray, "points dim"]) -> int:
    """The point of smallest median distance to the others.

    In double precision, by scalar products, and in blocks: all distances of many points, or all
    their differences, would not fit into memory.
    """
    if len(points) == 1:
        return 0
    points = points.astype(np.float64) - np.mean(points, axis=0)
    squares = np.sum(np.square(points), axis=1)
    medians = []
    for rows in np.array_split(np.arange(len(points)), -(-len(points) // 500)):
        gaps = squares[rows, None] + squares - 2 * points[rows] @ points.T
        others = gaps[rows[:, None] != np.arange(len(points))].reshape(len(rows), -1)
        medians.append(np.median(np.sqrt(np.maximum(others, 0)), axis=1))
    return int(np.argmin(np.concatenate(medians)))


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


def _check_sizes(num_classes: int, dim: int, key: PRNGKey) -> None:
    _check_classes(num_classes)
    check_key("key", key)
    if dim < 1:
        raise ValueError(f"`dim` is {dim}: give the positive dimension of the embeddings")


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"`num_classes` is {num_classes}: a classifier tells at least 2 classes apart")
