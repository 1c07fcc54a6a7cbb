"""The one look of all figures, given to each Axes and never to matplotlib's global settings."""

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
#: Seen on the white of no density and on the dark of much.
OVER_DENSITY = "#e76300"

#: White (nothing) to dark in even steps of OKLab, so that equal differences look equal, on paper and in grey too.
_SHADES = ("#ffffff", "#cee6ec", "#9acedd", "#6bb3cf", "#4d94c3", "#3c74b1", "#3e529b", "#36357a", "#2b1d52")


def color_map() -> Colormap:
    """The map of every image of magnitudes; what is not a number stands out in pink."""
    return LinearSegmentedColormap.from_list("flowprop", _SHADES).with_extremes(bad=MISSING)


def panels(axes: Sequence[Axes] | None, count: int, *, size: tuple[float, float], columns: int = 1) -> list[Axes]:
    """The axes that were given, or `count` new ones of `size` inches each, row by row."""
    if axes is None:
        columns = min(columns, count)
        rows = math.ceil(count / columns)
        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="compressed")
        return [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    if len(axes) != count:
        raise ValueError(f"`axes` has {len(axes)} panels where {count} are needed")
    return list(axes)


def panel(ax: Axes | None, size: tuple[float, float] = (4.8, 3.6)) -> Axes:
    """The axes that were given, or new ones of `size` inches."""
    return panels(None if ax is None else [ax], 1, size=size)[0]


def tidy(ax: Axes, *, title: str | None = None, xlabel: str = "", ylabel: str = "") -> None:
    """Text in one ink, no box, no tick marks."""
    if title is not None:
        ax.set_title(title, fontsize=11, color=INK)
    ax.set_xlabel(xlabel, fontsize=10, color=INK)
    ax.set_ylabel(ylabel, fontsize=10, color=INK)
    ax.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def light_grid(ax: Axes) -> None:
    """A grid that stays behind the data."""
    ax.set_axisbelow(True)
    ax.grid(color=GRID, linewidth=0.8)


def plain_log_ticks(axis: Axis) -> None:
    """On a logarithmic axis ticks at 1, 2 and 5, or at the powers of ten where these would crowd."""
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
    """A few whole numbers, with commas."""
    axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def color_bar(image: AxesImage, label: str) -> None:
    """A colour bar as high as the image's axes, labelled with its unit."""
    beside = image.axes.inset_axes((1.03, 0.0, 0.04, 1.0))
    bar = beside.figure.colorbar(image, cax=beside)
    bar.set_label(label, fontsize=10, color=INK)
    beside.tick_params(length=0, labelsize=9, labelcolor=INK)
    bar.outline.set_visible(False)


def legend(ax: Axes, **placement: Any) -> None:
    """A legend without a box."""
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, **placement)
