"""Two-dimensional points as a scatter plot."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes


def draw_samples(ax: Axes, samples: Float[Array | np.ndarray, "n 2"], color: str | Sequence[str]) -> None:
    """Draw points. Many points are drawn small, and in a vector format as an image, so that the file stays small."""
    x, y = np.asarray(samples).T
    size = float(np.clip(6000 / max(len(x), 1), 1.0, 12.0))
    ax.scatter(x, y, s=size, c=color, alpha=0.5, linewidths=0, rasterized=True)
