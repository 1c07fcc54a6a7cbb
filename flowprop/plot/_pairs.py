"""All pairs of coordinates of samples."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from .._types import checked
from ._classes import color_of
from ._samples import draw_samples
from ._style import FAINT, INK, tidy


Rows = Float[Array | np.ndarray, "n dim"]

#: The samples and the reference: blue and orange differ for any type of colour vision, on white and on black.
_SAMPLES, _REFERENCE = color_of(0), color_of(1)
_BINS = 40


@checked
def pairs(
    samples: Rows,
    reference: Float[Array | np.ndarray, "m dim"] | None = None,
    truth: Float[Array | np.ndarray, " dim"] | None = None,
    names: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("posterior", "reference"),
    max_points: int = 2000,
) -> Figure:
    """Draw a corner plot: the histogram of each coordinate of samples, and a scatter plot of each pair.

    All panels of a column share their horizontal axis. The limits contain 99.8 % of the samples and of the reference in
    each coordinate, and the truth.

    **Arguments:**

    - `samples`: samples of a posterior, `(n, dim)`.
    - `reference`: samples to compare with, such as those of the true posterior, `(m, dim)`. By default none.
    - `truth`: the parameter that the observation was simulated from, `(dim,)`. By default not drawn.
    - `names`: the names of the coordinates, with their units. By default their numbers.
    - `labels`: the names of the samples and of the reference in the legend.
    - `max_points`: at most this many points of each set are drawn; the histograms use all. By default 2,000.

    **Returns:** the figure.

    **Raises:** `ValueError` if there are no samples, some are not finite, or `names` has the wrong length.

    ```python
    import flowprop as fp
    import numpy as np

    random = np.random.default_rng(0)
    samples = random.normal(size=(500, 3))
    figure = fp.plot.pairs(samples, truth=np.zeros(3), names=["mass", "width", "rate"])
    fp.plot.save(figure, "pairs.png")
    ```
    """
    sets = {"samples": np.asarray(samples, float)}
    if reference is not None:
        sets["reference"] = np.asarray(reference, float)
    for name, points in sets.items():
        if len(points) == 0 or not np.isfinite(points).all():
            raise ValueError(f"`{name}` is empty or holds numbers that are not finite: give finite points")
    dim = samples.shape[1]
    names = [f"{index}" for index in range(dim)] if names is None else list(names)
    if len(names) != dim:
        raise ValueError(f"`names` has {len(names)} names where {dim} are needed: one for each coordinate")
    limits = _limits(list(sets.values()), truth)
    size = float(np.clip(9.0 / dim, 1.3, 2.6))
    figure = Figure(
        figsize=(dim * size + 0.6, dim * size + 0.6), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    )
    axes = figure.subplots(dim, dim, squeeze=False)
    for row in range(dim):
        for column in range(dim):
            ax = axes[row, column]
            if column > row:
                ax.set_axis_off()
                continue
            if column == row:
                _histograms(ax, [points[:, row] for points in sets.values()], limits[row])
            else:
                _points(ax, [points[:max_points, [column, row]] for points in sets.values()])
                ax.set_ylim(*limits[row])
            ax.set_xlim(*limits[column])
            _axes(ax, truth, row, column, names, dim)
    figure.align_labels()
    handles = [axes[0, 0].patches[index] for index in range(len(sets))]
    shown = dict(zip(labels, handles, strict=False))
    if truth is not None:
        shown["truth"] = axes[0, 0].lines[-1]
    if len(shown) > 1:
        corner = axes[0, -1] if dim > 1 else axes[0, 0]
        corner.legend(shown.values(), shown.keys(), loc="upper right", frameon=False, fontsize=10, labelcolor=INK)
    return figure


def _limits(sets: Sequence[Rows], truth: Float[Array | np.ndarray, " dim"] | None) -> Float[np.ndarray, "dim 2"]:
    quantiles = [np.quantile(points, [0.001, 0.999], axis=0) for points in sets]
    if truth is not None:
        quantiles.append(np.asarray(truth, float)[None])
    values = np.concatenate(quantiles)
    low, high = values.min(axis=0), values.max(axis=0)
    margin = np.where(high > low, 0.06 * (high - low), np.maximum(0.1 * np.abs(high), 1e-6))
    return np.stack([low - margin, high + margin], axis=1)


def _histograms(ax: Axes, sets: Sequence[Float[np.ndarray, " n"]], limits: Float[np.ndarray, " 2"]) -> None:
    edges = np.linspace(limits[0], limits[1], _BINS + 1).tolist()
    for values, color, filled in zip(sets, (_SAMPLES, _REFERENCE), (True, False), strict=False):
        ax.hist(
            values,
            edges,
            density=True,
            histtype="stepfilled" if filled else "step",
            color=color,
            alpha=0.6 if filled else 1.0,
            linewidth=0.0 if filled else 1.6,
        )
    ax.set_ylim(bottom=0)


def _points(ax: Axes, sets: Sequence[Float[np.ndarray, "n 2"]]) -> None:
    # The reference lies below: its points show where the samples lack some.
    for points, color in list(zip(sets, (_SAMPLES, _REFERENCE), strict=False))[::-1]:
        draw_samples(ax, points, color)


def _axes(
    ax: Axes, truth: Float[Array | np.ndarray, " dim"] | None, row: int, column: int, names: Sequence[str], dim: int
) -> None:
    if truth is not None:
        ax.axvline(float(truth[column]), color=INK, linewidth=1.2)
        if row != column:
            ax.axhline(float(truth[row]), color=INK, linewidth=1.2)
    ax.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    ax.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    last, first = row == dim - 1, column == 0 and row > 0
    tidy(ax, xlabel=names[column] if last else "", ylabel=names[row] if first else "")
    ax.tick_params(length=3, color=FAINT, labelbottom=last, labelleft=first)
    if row == column:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
