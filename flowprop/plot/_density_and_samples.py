"""The densities of data and model, beside samples of the model."""

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
    """Draw side by side the true density (if it is known), the density of the model, and samples of the model.

    All panels have the same limits, and the densities have the same colour scale.

    **Arguments:**

    - `log_prob`: a function from points `(n, 2)` to log-densities `(n,)` in nats, such as
        `lambda z: fp.log_prob(flow, z)`. Or an array of these values at
        `fp.plot.grid_points(bounds, resolution)`, if you also need them for an integral.
    - `samples`: samples of the model, `(n, 2)`. The title counts those outside `bounds`.
    - `bounds`: the drawn region, `((x_min, x_max), (y_min, y_max))`, in data coordinates.
    - `true_log_prob`: the log-density of the data, a function or an array like `log_prob`. By default there is no panel
        for it.
    - `labels`: the classes of the samples, `(n,)`, which determine their colours. By default all have one colour.
    - `resolution`: the number of grid cells along each axis. By default 200.
    - `nats_below_peak`: if given, draw the log-density instead of the density, from its highest value down to this many
        nats below it. This shows the tails.
    - `chunk_size`: how many points `log_prob` receives at once. By default 10,000.
    - `axes`: the matplotlib axes to draw on: two, or three with `true_log_prob`. By default the axes of a new figure.

    **Returns:** the figure.

    **Raises:** `ValueError` if `log_prob` or `true_log_prob` does not contain or return one value for each point, if
    `axes` has the wrong length, if a lower bound is not below its upper bound, or if `resolution` or `chunk_size` is
    not positive.

    ```python
    import flowprop as fp
    import jax

    density = fp.data.TwoMoons(noise=0.1)
    samples, labels = density.sample(100, key=jax.random.key(0))
    figure = fp.plot.density_and_samples(
        density.log_prob,
        samples,
        ((-2.0, 3.0), (-2.0, 2.0)),
        labels=labels,
        resolution=50,
    )
    fp.plot.save(figure, "density_and_samples.png")
    ```
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
