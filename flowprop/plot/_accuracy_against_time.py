"""How fast methods learn."""

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
    """Draw accuracy against seconds of training, one line for each method.

    **Arguments:**

    - `curves`: for each name, pairs of seconds and accuracy, the accuracy as a fraction.
    - `from_accuracy`: where the vertical axis begins, as a fraction; by default a little below what most points reach.
    - `title`: what stands above.
    - `ax`: the axes to draw on; new ones by default.

    **Returns:** the axes, with accuracies in per cent.

    **Raises:** `ValueError` if there are no curves, or one is not of pairs.
    """
    if not curves:
        raise ValueError("`curves` is empty where at least one is needed")
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
