"""What accuracy costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from .._types import checked
from ._classes import color_of
from ._style import FAINT, legend, light_grid, panel, plain_log_ticks, tidy


_MARKERS = "osD^vP*X"


@checked
def solver_sweep(
    records: Sequence[Mapping[str, Any]],
    *,
    reference: float | int | None = None,
    reference_name: str = "ordinary classifier",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy against function evaluations, one line for each solver.

    **Arguments:**

    - `records`: such as `{"solver": "Heun", "function_evaluations": 10, "accuracy": 0.99}`, with the
        accuracy as a fraction; other entries do not matter, nor does the order.
    - `reference`: an accuracy to compare with, as a fraction, drawn as a horizontal line.
    - `reference_name`: what that is.
    - `title`: what stands above.
    - `ax`: the axes to draw on; new ones by default.

    **Returns:**

    The axes, with accuracies in per cent.

    **Raises:**

    - `ValueError`: there are no records, or one lacks an entry.
    """
    if not records:
        raise ValueError("`records` is empty where at least one is needed")
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for entry in ("solver", "function_evaluations", "accuracy"):
            if entry not in record:
                raise ValueError(f"`records` holds {dict(record)}, which lacks {entry!r}")
        point = float(record["function_evaluations"]), 100 * float(record["accuracy"])
        lines.setdefault(record["solver"], []).append(point)

    ax = panel(ax)
    if reference is not None:
        ax.axhline(100 * reference, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label=reference_name, zorder=1)
    for index, (solver, points) in enumerate(lines.items()):
        marker = _MARKERS[index % len(_MARKERS)]
        x, y = zip(*sorted(points), strict=True)
        ax.plot(x, y, color=color_of(index), linewidth=1.6, marker=marker, markersize=5, label=solver, zorder=2)
    ax.set_xscale("log")
    plain_log_ticks(ax.xaxis)
    light_grid(ax)
    tidy(ax, title=title, xlabel="function evaluations", ylabel="accuracy (%)")
    legend(ax)
    return ax
