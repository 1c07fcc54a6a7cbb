"""The statistic of the local classifier two-sample test within its null distribution."""

from typing import Any

from matplotlib.axes import Axes

from .._types import checked
from ._classes import color_of
from ._style import OVER_DENSITY, legend, panel, tidy


@checked
def local_c2st(test: Any, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the statistic of a local classifier two-sample test and the histogram of its null distribution.

    **Arguments:**

    - `test`: the [`flowprop.metrics.LocalTwoSampleTest`][] that [`flowprop.metrics.local_c2st`][] returns.
    - `title`: the title of the axes. By default the result of the check.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class Prior:
        \"\"\"Ignores the observation.\"\"\"

        def sample(self, x, num_samples, *, key):
            return jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    test = fp.metrics.local_c2st(Prior(), theta, x, np.ones(1), key=key)
    fp.plot.save(fp.plot.local_c2st(test), "local_c2st.png")
    ```
    """
    ax = panel(ax, size=(4.2, 3.0))
    ax.hist(test.null, 30, density=True, color=color_of(0), alpha=0.6, label="exact posterior")
    ax.axvline(test.statistic, color=OVER_DENSITY, linewidth=2, label="this posterior")
    ax.set_xlim(left=0)
    ax.set_yticks([])
    result = f"{'passed' if test.passed else 'failed'} at {test.significance:.0%}, p = {test.p_value:.2g}"
    tidy(ax, title=result if title is None else title, xlabel="mean of (probability - 1/2)²")
    ax.spines["left"].set_visible(False)
    legend(ax, loc="best")
    return ax
