"""A two-dimensional density as an image."""

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
    """Draw a two-dimensional density as an image with a colour bar, optionally with samples on top.

    **Arguments:**

    - `log_prob`: a function from points `(n, 2)` to log-densities `(n,)` in nats, such as
        `lambda z: fp.log_prob(flow, z)`. Or an array of these values at
        `fp.plot.grid_points(bounds, resolution)`, if you also need them for an integral.
    - `bounds`: the drawn region, `((x_min, x_max), (y_min, y_max))`, in data coordinates.
    - `resolution`: the number of grid cells along each axis. By default 200.
    - `samples`: points `(n, 2)` to draw on top of the image. By default none.
    - `nats_below_peak`: if given, draw the log-density instead of the density, from its highest value down to this many
        nats below it. This shows the tails.
    - `title`: the title of the axes. By default none.
    - `chunk_size`: how many points `log_prob` receives at once. By default 10,000.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if `log_prob` does not contain or return one value for each point, if a lower bound is not
    below its upper bound, or if `resolution` or `chunk_size` is not positive.

    ```python
    import flowprop as fp

    bounds = ((-2.0, 3.0), (-2.0, 2.0))
    density = fp.data.TwoMoons(noise=0.1)
    ax = fp.plot.density_2d(density.log_prob, bounds, resolution=50)
    fp.plot.save(ax, "density.png")
    ```
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
    """The highest finite log-density of all images, or 0 if no value is finite."""
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
    """Draw log-densities with a colour scale whose upper end is `peak` nats."""
    if nats_below_peak is None:
        shown, low, high = np.exp(values), 0.0, float(np.exp(peak))
    else:
        low, high = peak - nats_below_peak, peak
        # A density of 0 is drawn at the lower end of the scale. NaN stays missing.
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
    """The label of the colour bar."""
    return "density" if nats_below_peak is None else "log-density (nats)"


def frame(ax: Axes, bounds: Bounds, title: str | None) -> None:
    """Set the limits of the axes, with the same scale on both."""
    ax.set_xlim(*bounds[0])
    ax.set_ylim(*bounds[1])
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    tidy(ax, title=title)
