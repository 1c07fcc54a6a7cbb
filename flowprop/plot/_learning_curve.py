"""The loss and other records of training, against the step."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from .._types import checked
from ._classes import color_of
from ._style import light_grid, panels, plain_log_ticks, tidy, whole_numbers


@checked
def learning_curve(
    history: Mapping[str, Shaped[Array | np.ndarray, "..."]],
    *,
    window: int | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure | SubFigure:
    """Draw the loss at each step with its running median, and one panel below for each other record.

    The axis of the loss is logarithmic if all losses are positive. Records that are a single number are not drawn.

    **Arguments:**

    - `history`: the history that [`flowprop.fit`][] returns: arrays `'step'` and `'loss'` of the same length. Every
        other array has the length of `'evaluation_step'`, if this exists, or of `'step'`.
    - `window`: the number of losses in the window of the running median. By default one fiftieth of all losses.
    - `axes`: the matplotlib axes to draw on: first for the loss, then for each other record. By default the axes of a
        new figure.

    **Returns:** the figure.

    **Raises:** `ValueError` if `history` has no `'step'` or no `'loss'`, an array in it has the length of no array of
    steps, `window` is below 1, or `axes` has the wrong length.

    ```python
    import flowprop as fp
    import numpy as np

    step = np.arange(1, 201)
    history = {"step": step, "loss": 1 / step}
    figure = fp.plot.learning_curve(history, window=5)
    fp.plot.save(figure, "learning_curve.png")
    ```
    """
    records = {name: np.asarray(values) for name, values in history.items()}
    for name in ("step", "loss"):
        if name not in records:
            raise ValueError(f"`history` lacks {name!r}: it has {sorted(records)}; give what `fp.fit` returns")
    if window is not None and window < 1:
        raise ValueError(f"`window` is {window}: give at least 1")
    named = [name for name in records if name not in ("step", "evaluation_step", "loss") and records[name].ndim]
    curves = {name: _steps_of(name, records) for name in named}
    steps, loss = _steps_of("loss", records), records["loss"].astype(float)
    loss_ax, *other_axes = panels(axes, 1 + len(curves), size=(5.4, 2.3))

    loss_ax.plot(steps, loss, color=color_of(0), linewidth=0.6, alpha=0.3)
    loss_ax.plot(*_running_median(steps, loss, window or max(1, len(loss) // 50)), color=color_of(0), linewidth=1.8)
    for ax, (name, at) in zip(other_axes, curves.items(), strict=True):
        ax.plot(
            at,
            records[name],
            color=color_of(0),
            linewidth=1.8,
            marker="o",
            markersize=4 if len(at) <= 50 else 0,
            clip_on=False,
        )
    for ax, name in zip([loss_ax, *other_axes], ["loss", *curves], strict=True):
        light_grid(ax)
        whole_numbers(ax.xaxis)
        ax.set_xlim(0, max(steps.max(initial=1), 1))
        tidy(ax, ylabel=name.replace("_", " "))
    (other_axes or [loss_ax])[-1].set_xlabel("step")
    if np.all(loss > 0):
        loss_ax.set_yscale("log")
        plain_log_ticks(loss_ax.yaxis)
    return loss_ax.figure


def _steps_of(name: str, records: Mapping[str, Shaped[np.ndarray, "_"]]) -> Shaped[np.ndarray, " length"]:
    """The steps of a record: of the two arrays of steps, the one with the length of the record."""
    for steps in ["step"] if name == "loss" else ["evaluation_step", "step"]:
        if steps in records and len(records[steps]) == len(records[name]):
            return records[steps]
    lengths = {known: len(values) for known, values in records.items()}
    raise ValueError(
        f"`history` has no steps for {name!r}: no array of steps has its length; the lengths are {lengths}"
    )


def _running_median(
    steps: Shaped[np.ndarray, " length"], values: Float[np.ndarray, " length"], window: int
) -> tuple[Shaped[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """The median of a window of values, at about ten steps for each window. The window is shorter near the ends."""
    centres = np.arange(0, len(values), max(1, window // 10))
    medians = [np.median(values[max(0, centre - window // 2) : centre + window // 2 + 1]) for centre in centres]
    return steps[centres], np.asarray(medians, float)
