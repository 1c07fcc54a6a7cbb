"""The ranks of simulation-based calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from .._types import checked
from ._classes import color_of
from ._style import FAINT, INK, legend, light_grid, panels, tidy


@checked
def sbc(
    test: Any,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure | SubFigure:
    """Draw how far the ranks of simulation-based calibration are from uniform.

    The first panel shows the distribution function of the ranks of each parameter minus that of uniform ranks, with the
    band that all curves of an exact posterior stay in together, with probability 1 - significance
    ([Säilynoja et al. 2022](https://arxiv.org/abs/2103.10522)). The check fails if a curve leaves the band. The other
    panels show the histogram of each parameter's ranks; 99 % of the bars of uniform ranks end in the grey area.

    A curve that rises above zero and falls below it means that the posterior is too narrow (the histogram is a U), the
    reverse that it is too wide. A curve that is above zero throughout means that the posterior's values are too large.

    **Arguments:**

    - `test`: the [`flowprop.metrics.CalibrationTest`][] that [`flowprop.metrics.sbc`][] returns.
    - `names`: the names of the parameters. By default their numbers.
    - `title`: the title of the first panel. By default the result of the check.
    - `axes`: the matplotlib axes to draw on: one, and one for each parameter. By default the axes of a new figure.

    **Returns:** the figure.

    **Raises:** `ValueError` if `names` or `axes` has the wrong length.

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
    figure = fp.plot.sbc(fp.metrics.sbc(Exact(), theta, x, key=key))
    fp.plot.save(figure, "sbc.png")
    ```
    """
    count = test.ranks.shape[1]
    names = [f"parameter {index}" for index in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"`names` has {len(names)} names where {count} are needed: one for each parameter")
    first, *others = panels(axes, 1 + count, size=(3.4, 2.9), columns=4)
    z = np.array([0, *test.positions, 1])
    limits = (np.array([0, *limit, 1]) - z for limit in (test.lower, test.upper))
    first.fill_between(z, *limits, color=FAINT, alpha=0.25, linewidth=0)
    first.axhline(0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)))
    for index, (name, cumulative) in enumerate(zip(names, test.cumulative, strict=True)):
        first.plot(z, np.array([0, *cumulative, 1]) - z, color=color_of(index), linewidth=1.6, label=name)
    first.set_xlim(0, 1)
    light_grid(first)
    result = f"{'passed' if test.passed else 'failed'} at {test.significance:.0%}"
    tidy(first, title=result if title is None else title, xlabel="rank / number of samples", ylabel="ECDF - uniform")
    if count <= 5:
        legend(first, loc="best")
    for index, (ax, name) in enumerate(zip(others, names, strict=True)):
        _histogram(ax, test.ranks[:, index], test.num_samples, color_of(index))
        tidy(ax, title=f"{name}: p = {test.p_value[index]:.2g}", xlabel="rank", ylabel="observations in the bin")
    return first.figure


def _histogram(ax: Axes, ranks: Integer[np.ndarray, " n"], num_samples: int, color: str) -> None:
    from scipy.stats import binom

    # Bins of equally many ranks, about as many as there are for 10 observations each.
    divisors = [bins for bins in range(1, num_samples + 2) if (num_samples + 1) % bins == 0]
    wanted = min(20, max(1, len(ranks) // 10))
    bins = max(number for number in divisors if number <= max(wanted, divisors[0]))
    low, high = binom.interval(0.99, len(ranks), 1 / bins)
    edges = np.linspace(-0.5, num_samples + 0.5, bins + 1)
    ax.axhspan(low, high, color=FAINT, alpha=0.25, linewidth=0)
    ax.axhline(len(ranks) / bins, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.hist(ranks, edges.tolist(), color=color, alpha=0.7, rwidth=0.92)
    ax.set_xlim(edges[0], edges[-1])
