"""How a classifier's flow makes up its mind."""

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
    """Draw the class probabilities along the flow, a small panel for each example, its image beside it.

    Each class that ever reaches a probability of 0.25 is named at its highest point.

    **Arguments:**

    - `times`: the times `(steps,)` in [0, 1].
    - `probabilities`: `(n, steps, classes)`. A dozen examples fill a page.
    - `images`: as for [`flowprop.plot.image_grid`][].
    - `labels`: the true classes `(n,)`; named beside the prediction.
    - `class_names`: the names of the classes; their numbers by default.
    - `columns`: the number of panels beside one another.
    - `axes`: n axes to draw on; new ones by default.

    **Returns:**

    The figure.

    **Raises:**

    - `ValueError`: there are no examples, `columns` is below 1, a label is none of the classes,
        `class_names` does not name each, `axes` does not hold one panel for each example, or `images`
        are no images.
    """
    times, probabilities = np.asarray(times), np.asarray(probabilities)
    num_examples, _, num_classes = probabilities.shape
    names = names_of(class_names, num_classes)
    if labels is not None:
        check_labels("labels", np.asarray(labels), num_classes, "the classes that `probabilities` has")
    if num_examples == 0:
        raise ValueError("`probabilities` is empty where at least one example is needed")
    if columns < 1:
        raise ValueError(f"`columns` is {columns} where at least 1 is needed")
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
    # As large in print whatever the panel's size, so that the layout can leave room for it.
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
