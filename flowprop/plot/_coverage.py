"""The coverage of credible regions against their level."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._types import checked
from ._classes import color_of
from ._style import FAINT, legend, light_grid, panel, tidy


@checked
def coverage(tests: Mapping[str, Any] | Any, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how often the credible regions of a posterior contain the true parameter, against their level.

    An exact posterior has a curve near the diagonal. Each curve has a grey band, which it stays in as a whole with
    probability 1 - significance if the posterior is exact; the check fails if the curve leaves it. A curve below the
    diagonal means that the posterior is too narrow.

    **Arguments:**

    - `tests`: for the name of each curve, the [`flowprop.metrics.CalibrationTest`][] that
        [`flowprop.metrics.tarp`][] or [`flowprop.metrics.expected_coverage`][] returns. Or one such test.
    - `title`: the title of the axes. By default none.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if `tests` is empty.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class Exact:
        \"\"\"The posterior of theta ~ N(0, 1) if x ~ N(theta, 1).\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 + np.sqrt(0.5) * jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    ax = fp.plot.coverage({"TARP": fp.metrics.tarp(Exact(), theta, x, key=key)})
    fp.plot.save(ax, "coverage.png")
    ```
    """
    named = tests if isinstance(tests, Mapping) else {"posterior": tests}
    if not named:
        raise ValueError("`tests` is empty: give at least one test")
    ax = panel(ax, size=(4.2, 4.2))
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="exact", zorder=1)
    bands = set()
    for index, (name, test) in enumerate(named.items()):
        level = np.array([0, *test.positions, 1])
        lower, upper = (np.array([0, *limit, 1]) for limit in (test.lower, test.upper))
        if (band := (*lower, *upper)) not in bands:  # equal bands are drawn once
            ax.fill_between(level, lower, upper, color=FAINT, alpha=0.25, linewidth=0, zorder=0)
            bands.add(band)
        result = f"{name} ({'passed' if test.passed else 'failed'}, p = {test.p_value.min():.2g})"
        ax.plot(level, [0, *test.cumulative[0], 1], color=color_of(index), linewidth=1.8, label=result, zorder=2)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    light_grid(ax)
    tidy(ax, title=title, xlabel="level of the region", ylabel="fraction of true parameters in the region")
    legend(ax, loc="upper left")
    return ax
