"""A density of the plane, as an image."""

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from .._types import checked
from ._grid import Bounds, LogProb, log_density_on_grid
from ._samples import draw_samples
from ._style import OVER_DENSITY, color_bar, color_map, panel, tidy


@checked
def density_2d(
    log_prob: LogProb | Float[Array | np.ndarray, " points"],
    bounds: Bounds,
    *,
    resolution: int = 200,
    samples: Float[Array | np.ndarray, "n 2"] | None = None,
    nats_below_peak: float | int | None = None,
    title: str | None = None,
    chunk_size: int = 10_000,
    ax: Axes | None = None,
) -> Axes:
    """Draw a density of the plane as an image with a colour bar, if wanted with samples over it.

    **Arguments:**

    - `log_prob`: a function from points `(n, 2)` to their log-densities `(n,)` in nats; or these
        values at `grid_points(bounds, resolution)`, where they are needed for an integral as well.
    - `bounds`: `((x_min, x_max), (y_min, y_max))`, in data coordinates.
    - `resolution`: the number of cells along each axis.
    - `samples`: points `(n, 2)` to draw over the image.
    - `nats_below_peak`: draw the log-density, down to this many nats below its highest value,
        instead of the density: it shows the tails.
    - `title`: what stands above.
    - `chunk_size`: the number of points that `log_prob` is given at once.
    - `ax`: the axes to draw on; new ones by default.

    **Returns:**

    The axes.

    **Raises:**

    - `ValueError`: `log_prob` does not hold or return one value for each point.
    """
    values = log_density_on_grid(log_prob, bounds, resolution, chunk_size)
    ax = panel(ax)
    image = draw_density(ax, values, bounds, peak=highest(values), nats_below_peak=nats_below_peak)
    color_bar(image, unit(nats_below_peak))
    if samples is not None:
        draw_samples(ax, samples, OVER_DENSITY)
    frame(ax, bounds, title)
    return ax


def highest(*images: Float[np.ndarray, "rows columns"]) -> float:
    """The highest finite log-density of all; 0 where there is none."""
    finite = np.concatenate([image[np.isfinite(image)] for image in images])
    return float(finite.max()) if len(finite) else 0.0


def draw_density(
    ax: Axes,
    values: Float[np.ndarray, "rows columns"],
    bounds: Bounds,
    *,
    peak: float,
    nats_below_peak: float | int | None,
) -> AxesImage:
    """Draw log-densities on a colour scale that ends at `peak` nats."""
    if nats_below_peak is None:
        shown, low, high = np.exp(values), 0.0, float(np.exp(peak))
    else:
        low, high = peak - nats_below_peak, peak
        # A density of 0 lies at the end of the scale; what is no number stays missing.
        shown = np.maximum(values, low)
    return ax.imshow(
        shown,
        extent=(*bounds[0], *bounds[1]),
        origin="lower",
        cmap=color_map(),
        vmin=low,
        vmax=high,
        interpolation="bilinear",
    )


def unit(nats_below_peak: float | int | None) -> str:
    """What the colours mean."""
    return "density" if nats_below_peak is None else "log-density (nats)"


def frame(ax: Axes, bounds: Bounds, title: str | None) -> None:
    """The limits of the plane, with equal units along both axes."""
    ax.set_xlim(*bounds[0])
    ax.set_ylim(*bounds[1])
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    tidy(ax, title=title)
