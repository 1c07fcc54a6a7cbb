"""Whether the densities that a model states can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._types import checked
from ._classes import color_of
from ._style import FAINT, legend, light_grid, panel, tidy


@checked
def coverage_curve(
    curves: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of the data in a model's highest-density regions against that of its probability.

    A curve below the diagonal belongs to a model that is too narrow. Around the diagonal lies, in grey, what
    chance alone makes of a calibrated model: two standard errors of each curve.

    **Arguments:**

    - `curves`: for each name three arrays of one length: levels, coverage, and the coverage's standard error,
        such as [`flowprop.metrics.expected_coverage`][] returns.
    - `title`: what stands above.
    - `ax`: the axes to draw on; new ones by default.

    **Returns:** the axes.

    **Raises:** `ValueError` if there are no curves, or one is not three arrays of one length.
    """
    if not curves:
        raise ValueError("`curves` is empty where at least one is needed")
    ax = panel(ax, size=(4.2, 4.2))
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="calibrated", zorder=1)
    for index, (name, curve) in enumerate(curves.items()):
        shapes = [np.shape(part) for part in curve]
        if len(shapes) != 3 or len(shapes[0]) != 1 or len(set(shapes)) != 1:
            raise ValueError(
                f"`curves` has for {name!r} arrays of shapes {shapes}: give levels, coverage and its standard error"
            )
        level, coverage, error = (np.asarray(part, float) for part in curve)
        ax.fill_between(level, level - 2 * error, level + 2 * error, color=FAINT, alpha=0.2, linewidth=0, zorder=0)
        ax.plot(level, coverage, color=color_of(index), linewidth=1.8, label=name, zorder=2)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    light_grid(ax)
    tidy(ax, title=title, xlabel="level of the highest-density region", ylabel="share of the data in it")
    legend(ax, loc="upper left")
    return ax
