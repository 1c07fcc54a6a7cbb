"""The confusion matrix of a classifier."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Bool, Integer
from matplotlib.axes import Axes

from .._types import checked
from ._classes import check_labels, names_of
from ._style import GRID, INK, color_bar, color_map, panel, tidy


@checked
def confusion_matrix(
    labels: Integer[Array | np.ndarray, " n"],
    predictions: Integer[Array | np.ndarray, " n"],
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a confusion matrix: how often each true class (row) was predicted as each class (column).

    The colour of an error is its percentage of the true class. The diagonal is grey, because its large values would
    hide the errors. With at most 20 classes the counts are written in the cells. The title is the accuracy.

    **Arguments:**

    - `labels`: the true classes `(n,)`.
    - `predictions`: the predicted classes `(n,)`.
    - `num_classes`: the number of classes. By default the length of `class_names`, or 1 plus the largest class.
    - `class_names`: the names of the classes. By default their numbers.
    - `ax`: the matplotlib axes to draw on. By default the axes of a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` if there are no labels, a label or a prediction is not one of the classes, or `class_names`
    does not have one name for each class.

    ```python
    import flowprop as fp
    import numpy as np

    labels, predictions = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 2])
    ax = fp.plot.confusion_matrix(labels, predictions)
    print(ax.get_title())  # accuracy 80.00 % (n = 5)
    fp.plot.save(ax, "confusion.png")
    ```
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if len(labels) == 0:
        raise ValueError("`labels` is empty: give at least one label")
    if num_classes is None:
        num_classes = int(max(labels.max(), predictions.max())) + 1 if class_names is None else len(class_names)
    names = names_of(class_names, num_classes)
    for name, classes in {"labels": labels, "predictions": predictions}.items():
        check_labels(name, classes, num_classes, "set `num_classes` or `class_names` to all classes")
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, predictions), 1)
    errors = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(errors, np.nan)

    side = float(np.clip(0.42 * num_classes, 3.2, 7.0))
    ax = panel(ax, size=(side + 1.2, side + 0.6))
    colors = color_map().with_extremes(bad=GRID)
    top = float(np.max(errors, initial=0.0, where=~np.isnan(errors))) or 1.0
    image = ax.imshow(errors, cmap=colors, vmin=0, vmax=top)
    color_bar(image, "errors (% of the true class)")
    if num_classes <= 20:
        _write_counts(ax, counts, errors > 0.5 * top)
    every = range(0, num_classes, -(-num_classes // 20))
    ax.set_xticks(every, [names[label] for label in every], rotation=0 if max(map(len, names)) <= 3 else 90)
    ax.set_yticks(every, [names[label] for label in every])
    accuracy = np.trace(counts) / len(labels)
    tidy(
        ax,
        title=f"accuracy {100 * accuracy:.2f} % (n = {len(labels):,})",
        xlabel="predicted class",
        ylabel="true class",
    )
    ax.spines[:].set(visible=True, color=GRID)
    return ax


def _write_counts(
    ax: Axes, counts: Integer[np.ndarray, "true predicted"], dark: Bool[np.ndarray, "true predicted"]
) -> None:
    size = 9 if len(counts) <= 12 else 6
    for true, predicted in zip(*np.nonzero(counts), strict=True):
        color = "white" if dark[true, predicted] else INK
        ax.text(predicted, true, str(counts[true, predicted]), ha="center", va="center", fontsize=size, color=color)
