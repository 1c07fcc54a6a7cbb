"""Accuracy against training time, for several methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._types import Real, checked
from ._classes import color_of
from ._style import legend, light_grid, panel, plain_log_ticks, tidy


@checked
def accuracy_against_time(
    curves: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    from_accuracy: Real | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy against seconds of training (on a logarithmic axis), one line for each method.

    **Arguments:**

    - `curves`: for the name of each method, a sequence of pairs (seconds, accuracy), with accuracies as fractions.
    - `from_accuracy`: the accuracy, as a fraction, near which the vertical axis begins. By default the 10 % quantile of
      all accuracies.
    - `title`: the title of the axes. By default none.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes, with accuracies in per cent.

    **Raises:** `ValueError` if there are no curves, or a curve does not consist of pairs.

    ```python
    import flowprop as fp

    curves = {"CT": [(10, 0.90), (20, 0.95)], "FM": [(5, 0.91), (50, 0.99)]}
    ax = fp.plot.accuracy_against_time(curves)
    fp.plot.save(ax, "accuracy.png")
    ```
    """
    if not curves:
        raise ValueError("`curves` is empty: give at least one curve")
    ax = panel(ax)
    reached: list[float] = []
    for index, (name, curve) in enumerate(curves.items()):
        points = np.asarray(curve, float)
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(
                f"`curves` has for {name!r} an array of shape {points.shape}: give pairs (seconds, accuracy)"
            )
        ax.plot(
            points[:, 0], 100 * points[:, 1], color=color_of(index), linewidth=1.6, marker="o", markersize=4, label=name
        )
        reached.extend(100 * points[:, 1])
    lowest = np.quantile(reached, 0.1) if from_accuracy is None else 100 * float(from_accuracy)
    top = max(reached)
    ax.set_ylim(lowest - 0.1 * (top - lowest) - 1e-3, top + 0.1 * (top - lowest) + 1e-3)
    ax.set_xscale("log")
    plain_log_ticks(ax.xaxis)
    light_grid(ax)
    tidy(ax, title=title, xlabel="seconds of training", ylabel="accuracy (%)")
    legend(ax)
    return ax
