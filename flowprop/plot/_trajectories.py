"""Trajectories of two-dimensional points, from noise to data."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Integer
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from .._types import checked
from ._classes import check_labels, color_of, colors_of, names_of
from ._density import frame
from ._grid import Bounds
from ._style import FAINT, legend, panel


@checked
def trajectories(
    paths: Float[Array | np.ndarray, "n steps 2"],
    *,
    labels: Integer[Array | np.ndarray, " n"] | None = None,
    class_names: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw trajectories from noise (grey dots) to data (coloured dots).

    Draw at most a few hundred trajectories, so that the figure stays readable.

    **Arguments:**

    - `paths`: the points of each trajectory, `(n, steps, 2)`, from noise to data.
    - `labels`: the classes of the trajectories, `(n,)`, which determine their colours. By default all have one colour.
    - `class_names`: the names of the classes. By default their numbers.
    - `bounds`: the drawn region, `((x_min, x_max), (y_min, y_max))`. By default it contains all trajectories.
    - `title`: the title of the axes. By default none.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if `class_names` does not have one name for each class.

    ```python
    import flowprop as fp
    import numpy as np

    noise, data = np.random.default_rng(0).normal(size=(2, 20, 1, 2))
    t = np.linspace(0, 1, 11)[:, None]
    paths = (1 - t) * noise + t * (0.3 * data + 2)  # straight lines
    ax = fp.plot.trajectories(paths)
    fp.plot.save(ax, "trajectories.png")
    ```
    """
    paths = np.asarray(paths)
    colors = colors_of(labels, len(paths))
    ax = panel(ax, size=(5.2, 4.0))
    ax.add_collection(LineCollection(list(paths), colors=colors, linewidths=0.7, alpha=0.45, zorder=2))
    ax.scatter(paths[:, 0, 0], paths[:, 0, 1], s=7, c=FAINT, linewidths=0, zorder=3)
    ax.scatter(paths[:, -1, 0], paths[:, -1, 1], s=12, c=colors, edgecolors="white", linewidths=0.4, zorder=4)
    frame(ax, bounds or _bounds(paths), title)
    ends = {"data, $t = 1$": color_of(0)} if labels is None else _named_colors(np.asarray(labels), class_names)
    marks = [
        Line2D([], [], marker="o", markersize=5, linestyle="none", color=color, label=name)
        for name, color in {"noise, $t = 0$": FAINT, **ends}.items()
    ]
    legend(ax, handles=marks, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2)
    return ax


def _named_colors(labels: Integer[np.ndarray, " n"], class_names: Sequence[str] | None) -> dict[str, str]:
    num_classes = int(labels.max(initial=0)) + 1 if class_names is None else len(class_names)
    check_labels("labels", labels, num_classes, "give `class_names` one name for each class")
    names = names_of(class_names, num_classes)
    return {
        f"class {names[label]}" if class_names is None else names[label]: color_of(label) for label in np.unique(labels)
    }


def _bounds(paths: Float[np.ndarray, "n steps 2"]) -> Bounds:
    low, high = paths.min(axis=(0, 1)), paths.max(axis=(0, 1))
    margin = 0.05 * (high - low).max()
    (x_low, y_low), (x_high, y_high) = (low - margin).tolist(), (high + margin).tolist()
    return (x_low, x_high), (y_low, y_high)
