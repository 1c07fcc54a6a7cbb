"""A density beside the samples that should have it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from .._types import checked
from ._classes import colors_of
from ._density import draw_density, frame, highest, unit
from ._grid import Bounds, LogProb, log_density_on_grid
from ._samples import draw_samples
from ._style import color_bar, panels


@checked
def density_and_samples(
    log_prob: LogProb | Float[Array | np.ndarray, " points"],
    samples: Float[Array | np.ndarray, "n 2"],
    bounds: Bounds,
    *,
    true_log_prob: LogProb | Float[Array | np.ndarray, " points"] | None = None,
    labels: Integer[Array | np.ndarray, " n"] | None = None,
    resolution: int = 200,
    nats_below_peak: float | int | None = None,
    chunk_size: int = 10_000,
    axes: Sequence[Axes] | None = None,
) -> Figure | SubFigure:
    """Draw side by side the true density where it is known, the model's density, and samples.

    The panels share their limits, and the densities one colour scale.

    **Arguments:**

    - `log_prob`: the model's log-density, as for [`flowprop.plot.density_2d`][].
    - `samples`: the model's samples `(n, 2)`. Those outside `bounds` are counted in the title.
    - `bounds`: `((x_min, x_max), (y_min, y_max))`, in data coordinates.
    - `true_log_prob`: the log-density of the data, in the same form.
    - `labels`: the classes `(n,)` of the samples, which then colour them.
    - `resolution`, `nats_below_peak`, `chunk_size`: as for [`flowprop.plot.density_2d`][].
    - `axes`: two axes to draw on, three with `true_log_prob`; new ones by default.

    **Returns:**

    The figure.

    **Raises:**

    - `ValueError`: `log_prob` or `true_log_prob` does not hold or return one value for each point,
        or `axes` does not hold one panel for each drawing.
    """
    given = {"true density": true_log_prob, "model density": log_prob}
    densities = {
        title: log_density_on_grid(function, bounds, resolution, chunk_size)
        for title, function in given.items()
        if function is not None
    }
    *density_axes, sample_ax = panels(axes, len(densities) + 1, size=(3.7, 3.4), columns=3)
    peak = highest(*densities.values())
    for ax, (title, values) in zip(density_axes, densities.items(), strict=True):
        image = draw_density(ax, values, bounds, peak=peak, nats_below_peak=nats_below_peak)
        frame(ax, bounds, title)
    color_bar(image, unit(nats_below_peak))
    draw_samples(sample_ax, samples, colors_of(labels, len(samples)))
    frame(sample_ax, bounds, _count(np.asarray(samples), bounds))
    return sample_ax.figure


def _count(samples: Float[np.ndarray, "n 2"], bounds: Bounds) -> str:
    low, high = np.transpose(bounds)
    outside = int(np.sum(~np.all((low <= samples) & (samples <= high), axis=-1)))
    return f"{len(samples):,} samples" + (f", {outside:,} outside" if outside else "")
