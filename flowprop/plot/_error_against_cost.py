"""Error against cost, for several methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._types import checked
from ._classes import color_of
from ._style import legend, light_grid, panel, plain_log_ticks, tidy


_MARKERS = "osD^vP*X"


@checked
def error_against_cost(
    curves: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    cost: str = "function evaluations",
    error: str = "error (nats)",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw errors against costs, both on logarithmic axes, one line for each method.

    **Arguments:**

    - `curves`: for the name of each method, two arrays of the same length: costs and errors, all positive.
    - `cost`: the label of the horizontal axis. By default "function evaluations".
    - `error`: the label of the vertical axis. By default "error (nats)".
    - `title`: the title of the axes. By default none.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if there are no curves, or a curve does not consist of two arrays of the same length.

    ```python
    import flowprop as fp

    curves = {"Euler": ([8, 16], [0.2, 0.1]), "Heun": ([8, 16], [0.08, 0.02])}
    ax = fp.plot.error_against_cost(curves, error="error")
    fp.plot.save(ax, "error.png")
    ```
    """
    if not curves:
        raise ValueError("`curves` is empty: give at least one curve")
    ax = panel(ax)
    for index, (name, curve) in enumerate(curves.items()):
        shapes = [np.shape(part) for part in curve]
        if len(shapes) != 2 or len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise ValueError(f"`curves` has for {name!r} arrays of shapes {shapes}: give costs and errors")
        x, y = (np.asarray(part, float) for part in curve)
        marker = _MARKERS[index % len(_MARKERS)]
        ax.plot(x, y, color=color_of(index), linewidth=1.6, marker=marker, markersize=5, label=name)
    ax.set(xscale="log", yscale="log")
    plain_log_ticks(ax.xaxis)
    light_grid(ax)
    tidy(ax, title=title, xlabel=cost, ylabel=error)
    legend(ax)
    return ax
