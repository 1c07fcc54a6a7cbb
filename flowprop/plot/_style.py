"""The common style of all figures. It is set for each Axes, not in the global settings of matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator


INK = "#333333"
FAINT = "#9a9a9a"
GRID = "#e8e8e8"
MISSING = "#e5b8b0"
#: Visible on white (no density) and on dark colours (high density).
OVER_DENSITY = "#e76300"

#: From white (0) to dark in even steps of OKLab, so that equal differences look equal, also in print and in grey.
_SHADES = ("#ffffff", "#cee6ec", "#9acedd", "#6bb3cf", "#4d94c3", "#3c74b1", "#3e529b", "#36357a", "#2b1d52")


def color_map() -> Colormap:
    """The colour map of all images of magnitudes. NaN is pink."""
    return LinearSegmentedColormap.from_list("flowprop", _SHADES).with_extremes(bad=MISSING)


def panels(axes: Sequence[Axes] | None, count: int, *, size: tuple[float, float], columns: int = 1) -> list[Axes]:
    """The given axes, or `count` new axes of `size` inches each, row by row."""
    if axes is None:
        columns = min(columns, count)
        rows = math.ceil(count / columns)
        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="compressed")
        return [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    if len(axes) != count:
        raise ValueError(f"`axes` has {len(axes)} panels: give {count}")
    return list(axes)


def panel(ax: Axes | None, size: tuple[float, float] = (4.8, 3.6)) -> Axes:
    """The given axes, or new axes of `size` inches."""
    return panels(None if ax is None else [ax], 1, size=size)[0]


def tidy(ax: Axes, *, title: str | None = None, xlabel: str = "", ylabel: str = "") -> None:
    """Set title and labels in one colour, and remove the box and the tick marks."""
    if title is not None:
        ax.set_title(title, fontsize=11, color=INK)
    ax.set_xlabel(xlabel, fontsize=10, color=INK)
    ax.set_ylabel(ylabel, fontsize=10, color=INK)
    ax.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def light_grid(ax: Axes) -> None:
    """Draw a light grid behind the data."""
    ax.set_axisbelow(True)
    ax.grid(color=GRID, linewidth=0.8)


def plain_log_ticks(axis: Axis) -> None:
    """Set the ticks of a logarithmic axis: at 1, 2 and 5, or only at powers of ten if the range is large."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(_plain_number))
    axis.set_minor_locator(NullLocator())


def _plain_number(value: float, _position: int | None) -> str:
    if 0.001 <= value < 1_000_000:
        return f"{value:,.12g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return rf"${float(mantissa):g} \times 10^{{{int(exponent)}}}$".replace(r"1 \times ", "")


def whole_numbers(axis: Axis) -> None:
    """Set a few ticks at whole numbers, with commas for thousands."""
    axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def color_bar(image: AxesImage, label: str) -> None:
    """Draw a labelled colour bar with the height of the image."""
    beside = image.axes.inset_axes((1.03, 0.0, 0.04, 1.0))
    bar = beside.figure.colorbar(image, cax=beside)
    bar.set_label(label, fontsize=10, color=INK)
    beside.tick_params(length=0, labelsize=9, labelcolor=INK)
    bar.outline.set_visible(False)


def legend(ax: Axes, **placement: Any) -> None:
    """Draw a legend without a box."""
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, **placement)
