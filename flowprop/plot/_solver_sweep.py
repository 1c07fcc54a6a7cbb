"""Accuracy against the number of function evaluations, for several solvers."""

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
    """Draw accuracy against the number of function evaluations (on a logarithmic axis), one line for each solver.

    **Arguments:**

    - `records`: dictionaries such as `{"solver": "Heun", "function_evaluations": 10, "accuracy": 0.99}`, in any order,
        with the accuracy as a fraction. Other entries are ignored.
    - `reference`: an accuracy for comparison, as a fraction, drawn as a horizontal line. By default none.
    - `reference_name`: the name of the reference in the legend. By default "ordinary classifier".
    - `title`: the title of the axes. By default none.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes, with accuracies in per cent.

    **Raises:** `ValueError` if there are no records, or a record lacks one of the three entries.

    ```python
    import flowprop as fp

    records = [
        {"solver": "Euler", "function_evaluations": 5, "accuracy": 0.96},
        {"solver": "Euler", "function_evaluations": 10, "accuracy": 0.98},
        {"solver": "Heun", "function_evaluations": 10, "accuracy": 0.99},
    ]
    ax = fp.plot.solver_sweep(records, reference=0.985)
    fp.plot.save(ax, "solvers.png")
    ```
    """
    if not records:
        raise ValueError("`records` is empty: give at least one record")
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
