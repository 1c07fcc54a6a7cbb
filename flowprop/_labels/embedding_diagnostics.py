"""How the embeddings of classes lie: distances, ranks and collapse."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._types import checked
from .embedding import Embedding


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
