"""Images, side by side."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib.axes import Axes

from .._types import checked
from ._style import INK, panel


_ArrayLike: TypeAlias = Array | np.ndarray
#: Grey `(n, height, width)` or `(n, height, width, 1)`, or in colour `(n, height, width, 3)`.
Images: TypeAlias = Float[_ArrayLike, "n height width *channels"] | UInt8[_ArrayLike, "n height width *channels"]


@checked
def image_grid(
    images: Images,
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw images in a tidy grid, row by row.

    **Arguments:**

    - `images`: `(n, height, width)` or `(n, height, width, channels)` with 1 channel (grey) or 3
        (red, green, blue); floats in [0, 1], or uint8.
    - `titles`: n short texts, one to stand above each image.
    - `columns`: the number of images beside one another; by default about as many as rows.
    - `ax`: the axes to draw on; new ones by default.

    **Returns:**

    The axes. Image `i` fills the unit square of column `i % columns` less a gap.

    **Raises:**

    - `ValueError`: there are no images, they have other shapes or values, `titles` does not hold
        one for each, or `columns` is below 1.
    """
    shown = as_color(images)
    num_images, height, width, _ = shown.shape
    if titles is not None and len(titles) != num_images:
        raise ValueError(f"`titles` has {len(titles)} texts where {num_images} are needed: one for each image")
    columns = math.ceil(math.sqrt(num_images)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"`columns` is {columns} where at least 1 is needed")
    columns = min(columns, num_images)
    rows = math.ceil(num_images / columns)

    # In units of an image's width. One Axes for all images: one for each would take seconds.
    gap = 0.06
    cell_width, cell_height = 1 + gap, height / width + (gap if titles is None else 0.28)
    scale = min(0.9, 9 / columns)
    ax = panel(ax, size=(scale * columns * cell_width, scale * rows * cell_height))
    for index, image in enumerate(shown):
        row, column = divmod(index, columns)
        left, bottom = column * cell_width, -row * cell_height - height / width
        ax.imshow(image, extent=(left, left + 1, bottom, bottom + height / width), interpolation="nearest")
        if titles is not None:
            ax.text(
                left + 0.5,
                bottom + height / width + 0.03,
                titles[index],
                ha="center",
                va="bottom",
                fontsize=8,
                color=INK,
            )
    ax.set_xlim(-gap, columns * cell_width)
    ax.set_ylim(-rows * cell_height, cell_height - height / width)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def as_color(images: Images) -> Float[np.ndarray, "n height width 3"]:
    """The images in red, green and blue, in [0, 1]."""
    array = np.asarray(images)
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(float)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"`images` has shape {images.shape} where (n, height, width) or (n, height, width, channels) with 1 or 3 "
            "channels is needed"
        )
    # Written so that NaN fails as well.
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"`images` holds values from {array.min():.3g} to {array.max():.3g} where floats in [0, 1] or uint8 are "
            "needed: clip or rescale them, as by `(images + 1) / 2`"
        )
    return np.broadcast_to(array, (*array.shape[:-1], 3))
