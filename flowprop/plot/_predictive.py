"""Simulations from the posterior beside the observation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._types import checked
from ._classes import color_of
from ._style import OVER_DENSITY, legend, light_grid, panel, tidy


@checked
def predictive(
    check: Any, *, names: Sequence[str] | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the statistics of simulations from the posterior as intervals, and those of the observation as points.

    The wide bars contain the central 50 % of the simulations and the thin lines 95 %. Each statistic is divided by the
    standard deviation of its simulations after subtracting their median, so that all share one axis.

    **Arguments:**

    - `check`: the [`flowprop.metrics.PredictiveCheck`][] that [`flowprop.metrics.posterior_predictive_check`][]
        returns.
    - `names`: the names of the statistics. By default their numbers.
    - `title`: the title of the axes. By default the result of the check.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if `names` has the wrong length.

    ```python
    import flowprop as fp
    import jax


    class Posterior:
        def sample(self, x, num_samples, *, key):
            return x / 2 + 0.7 * jax.random.normal(key, (num_samples, 3))


    def simulator(theta, *, key):
        return theta + jax.random.normal(key, theta.shape)


    observation = jax.random.normal(jax.random.key(0), (3,))
    check = fp.metrics.posterior_predictive_check(
        Posterior(), simulator, observation, key=jax.random.key(1)
    )
    fp.plot.save(fp.plot.predictive(check), "predictive.png")
    ```
    """
    count = len(check.observed)
    names = [str(index) for index in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"`names` has {len(names)} names where {count} are needed: one for each statistic")
    deviation = check.simulated.std(axis=0)
    middle, scale = np.median(check.simulated, axis=0), np.where(deviation > 0, deviation, 1.0)
    low, lower, upper, high = (np.quantile(check.simulated, [0.025, 0.25, 0.75, 0.975], axis=0) - middle) / scale
    ax = panel(ax, size=(max(3.6, 0.4 * count + 1.5), 3.2))
    place = np.arange(count)
    ax.vlines(place, low, high, color=color_of(0), linewidth=1.5, label="95 % of the simulations")
    ax.vlines(place, lower, upper, color=color_of(0), linewidth=6, alpha=0.6, label="50 %")
    ax.plot(place, (check.observed - middle) / scale, "o", color=OVER_DENSITY, markersize=6, label="observation")
    ax.set_xticks(place, names)
    ax.set_xlim(-0.6, count - 0.4)
    light_grid(ax)
    ax.grid(axis="x", visible=False)
    result = f"{'passed' if check.passed else 'failed'} at {check.significance:.0%}"
    tidy(ax, title=result if title is None else title, ylabel="standard deviations")
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    return ax
