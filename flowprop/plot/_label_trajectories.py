"""The class probabilities of a classifier along its flow."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from .._types import checked
from ._classes import check_labels, color_of, names_of
from ._image_grid import Images, as_color
from ._style import light_grid, panels, tidy


_NAMED_FROM = 0.25
_IMAGE_POINTS = 62.0


@checked
def label_trajectories(
    times: Float[Array | np.ndarray, " steps"],
    probabilities: Float[Array | np.ndarray, "n steps classes"],
    *,
    images: Images | None = None,
    labels: Integer[Array | np.ndarray, " n"] | None = None,
    class_names: Sequence[str] | None = None,
    columns: int = 2,
    axes: Sequence[Axes] | None = None,
) -> Figure | SubFigure:
    """Draw the class probabilities along the flow, with one small panel for each example.

    A class whose probability reaches 0.25 is labelled at its maximum.

    **Arguments:**

    - `times`: the times in [0, 1], `(steps,)`.
    - `probabilities`: the class probabilities, `(n, steps, classes)`. Twelve examples fill a page.
    - `images`: images to draw beside the panels, an array `(n, height, width)` or `(n, height, width, channels)` with 1
        or 3 channels. The values are floats in [0, 1] or uint8. By default none.
    - `labels`: the true classes, `(n,)`, for the titles. By default the titles show only the prediction.
    - `class_names`: the names of the classes. By default their numbers.
    - `columns`: the number of panels in a row. By default 2.
    - `axes`: n matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the figure.

    **Raises:** `ValueError` if there are no examples, `columns` is below 1, a label is not one of the classes,
    `class_names` does not have one name for each class, `axes` has the wrong length, or `images` have another shape or
    other values.

    ```python
    import flowprop as fp
    import numpy as np

    times = np.linspace(0, 1, 5)
    first = np.stack([0.5 + times / 2, 0.5 - times / 2], axis=1)
    probabilities = np.stack([first, first[:, ::-1]])
    figure = fp.plot.label_trajectories(times, probabilities, labels=np.array([0, 1]))
    print(figure.axes[0].get_title())  # predicted 0, true 0
    fp.plot.save(figure, "labels.png")
    ```
    """
    times, probabilities = np.asarray(times), np.asarray(probabilities)
    num_examples, _, num_classes = probabilities.shape
    names = names_of(class_names, num_classes)
    if labels is not None:
        check_labels("labels", np.asarray(labels), num_classes, "use the classes of `probabilities`")
    if num_examples == 0:
        raise ValueError("`probabilities` is empty: give at least one example")
    if columns < 1:
        raise ValueError(f"`columns` is {columns}: give at least 1")
    shown = None if images is None else as_color(images)
    all_axes = panels(axes, num_examples, size=(3.6, 1.7), columns=columns)
    for example, ax in enumerate(all_axes):
        _draw_curves(ax, times, probabilities[example], names)
        title = "predicted " + names[int(np.argmax(probabilities[example, -1]))]
        title += "" if labels is None else f", true {names[int(labels[example])]}"
        xlabel = "$t$" if example + columns >= num_examples else ""
        tidy(ax, title=title, xlabel=xlabel, ylabel="probability" if example % columns == 0 else "")
        if shown is not None:
            _draw_beside(ax, shown[example])
    return all_axes[0].figure


def _draw_curves(
    ax: Axes, times: Float[np.ndarray, " steps"], curves: Float[np.ndarray, "steps classes"], names: Sequence[str]
) -> None:
    for label, curve in enumerate(curves.T):
        peak, color = int(np.argmax(curve)), color_of(label)
        named = curve[peak] >= _NAMED_FROM
        ax.plot(times, curve, color=color, linewidth=1.8 if named else 0.8, zorder=3 if named else 2, clip_on=False)
        if named:
            at_end = peak > 0.9 * len(times)
            ax.annotate(
                names[label],
                (times[peak], curve[peak]),
                xytext=(4, 0) if at_end else (0, 2),
                textcoords="offset points",
                ha="left" if at_end else "center",
                va="center" if at_end else "bottom",
                color=color,
                fontsize=9,
                fontweight="bold",
            )
    ax.set_xlim(times[0], times[-1])
    ax.set_ylim(-0.06, 1.2)
    ax.set_yticks([0, 0.5, 1])
    light_grid(ax)


def _draw_beside(ax: Axes, image: Float[np.ndarray, "height width channels"]) -> None:
    # The printed size does not depend on the size of the panel, so that the layout can reserve space for it.
    picture = OffsetImage(image, zoom=_IMAGE_POINTS / max(image.shape[:2]), interpolation="nearest")
    ax.add_artist(
        AnnotationBbox(
            picture,
            xy=(1.0, 0.5),
            xycoords="axes fraction",
            xybox=(18.0, 0.0),
            boxcoords="offset points",
            box_alignment=(0.0, 0.5),
            frameon=False,
            pad=0.0,
        )
    )
