"""A grid of images."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib.axes import Axes

from .._types import checked
from ._style import INK, panel


_ArrayLike: TypeAlias = Array | np.ndarray
#: Grey images `(n, height, width)` or `(n, height, width, 1)`, or colour images `(n, height, width, 3)`.
Images: TypeAlias = Float[_ArrayLike, "n height width *channels"] | UInt8[_ArrayLike, "n height width *channels"]


@checked
def image_grid(
    images: Images,
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw images in a grid, row by row.

    **Arguments:**

    - `images`: an array `(n, height, width)` or `(n, height, width, channels)` with 1 channel (grey) or 3 channels
        (red, green, blue). The values are floats in [0, 1] or uint8.
    - `titles`: n short texts, one for the space above each image. By default none.
    - `columns`: the number of images in a row. By default the square root of n, rounded up.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes. Image `i` is in column `i % columns`. One unit of both axes is the width of an image.

    **Raises:** `ValueError` if there are no images, if they have another shape or other values, if `titles` does not
    have one text for each image, or if `columns` is below 1.

    ```python
    import flowprop as fp
    import numpy as np

    images = np.random.default_rng(0).uniform(size=(6, 8, 8))
    ax = fp.plot.image_grid(images, columns=3, titles=list("abcdef"))
    fp.plot.save(ax, "images.png")
    ```
    """
    shown = as_color(images)
    num_images, height, width, _ = shown.shape
    if titles is not None and len(titles) != num_images:
        raise ValueError(f"`titles` has {len(titles)} texts where {num_images} are needed: one for each image")
    columns = math.ceil(math.sqrt(num_images)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"`columns` is {columns}: give at least 1")
    columns = min(columns, num_images)
    rows = math.ceil(num_images / columns)

    # In units of the width of an image. All images share one Axes, because one Axes for each would take seconds.
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
    """The images with red, green and blue channels, with values in [0, 1]."""
    array = np.asarray(images)
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(float)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"`images` has shape {images.shape} where (n, height, width) or (n, height, width, channels) with 1 or 3 "
            "channels is needed"
        )
    # This form of the condition also refuses NaN.
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"`images` holds values from {array.min():.3g} to {array.max():.3g} where floats in [0, 1] or uint8 are "
            "needed: clip or rescale them, for example with `(images + 1) / 2`"
        )
    return np.broadcast_to(array, (*array.shape[:-1], 3))
