"""The coverage curve of a model: a figure of its calibration."""

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
    """Draw the fraction of the data in a model's highest-density regions against the level of these regions.

    The level is the probability that the model assigns to the region. A calibrated model has a curve near the diagonal
    ([Hermans et al. 2022](https://arxiv.org/abs/2110.06581)). A curve below the diagonal means that the model is too
    narrow. The grey band around the diagonal shows the random deviations of a calibrated model: two standard errors of
    each curve.

    **Arguments:**

    - `curves`: for the name of each model, three arrays of the same length: levels, coverage, and the standard error of
        the coverage, such as [`flowprop.metrics.coverage_curve`][] returns.
    - `title`: the title of the axes. By default none.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if there are no curves, or a curve does not consist of three arrays of the same length.

    ```python
    import flowprop as fp
    import numpy as np

    ranks = np.random.default_rng(0).uniform(size=100)  # of a calibrated model
    curve = fp.metrics.coverage_curve(ranks)
    ax = fp.plot.coverage_curve({"FM": curve})
    fp.plot.save(ax, "coverage.png")
    ```
    """
    if not curves:
        raise ValueError("`curves` is empty: give at least one curve")
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
    tidy(ax, title=title, xlabel="level of the highest-density region", ylabel="fraction of the data in the region")
    legend(ax, loc="upper left")
    return ax
