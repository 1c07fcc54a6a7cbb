"""Diagnostics of label embeddings: distances, effective rank and collapse."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._types import checked
from .embedding import Embedding


class EmbeddingDiagnostics(NamedTuple):
    """How well a label embedding separates its classes: the result of [`flowprop.embedding_diagnostics`][].

    It prints as one line.

    ```python
    import flowprop as fp
    import jax

    embedding = fp.learned_embedding(4, 3, key=jax.random.key(0))
    found = fp.embedding_diagnostics(embedding)
    print(found.norms.shape, found.largest_rank)  # (4,) 3
    ```

    **Arguments:**

    - `smallest_distance`: the smallest distance between the points of two classes.
    - `nearest_classes`: these two classes.
    - `norms`: the length of each point, `(classes,)`.
    - `effective_rank`: the number of dimensions in which the points differ, a real number; 0 if all points coincide.
    - `largest_rank`: the largest possible effective rank, an integer.
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
    """Measures how well a label embedding separates its classes, and warns if the embedding has collapsed.

    The effective rank is `exp(-sum_i p_i log p_i)`, where `p` are the singular values divided by their sum
    ([Roy & Vetterli 2007](https://ieeexplore.ieee.org/document/7098875)). The singular values are those of the points
    minus their mean, because a shift that all classes share does not separate them. For n classes in d dimensions the
    effective rank is at most `min(n - 1, d)`.

    ```python
    import flowprop as fp

    found = fp.embedding_diagnostics(fp.one_hot_embedding(3))
    print(f"{found.smallest_distance:.3f} {found.effective_rank:.3f}")  # 1.414 2.000
    ```

    **Arguments:**

    - `embedding`: an [`flowprop.Embedding`][], such as `clf.embedding` of a trained classifier. Do not call this
      function under `jax.jit`.

    **Returns:** an [`flowprop.EmbeddingDiagnostics`][].

    **Raises:** `ValueError` if a point is not finite.

    **Warns:** if the smallest distance is below a tenth of the mean norm, or the effective rank below half of the
    largest possible.
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
    # Smaller values are rounding errors of single precision.
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
        warnings.warn(f"the embeddings of two classes nearly coincide: {found}", stacklevel=1)
    if found.effective_rank < found.largest_rank / 2:
        warnings.warn(f"the embeddings of the classes differ in few dimensions: {found}", stacklevel=1)
    return found
