"""The classes in a figure: their number, colours and names."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Integer


#: Ten colours of Petroff (arXiv:2107.02270), which can be distinguished with any type of colour vision.
_TEN_COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


def color_of(label: int) -> str:
    """The colour of a class. The colours repeat after ten classes, because more are hard to distinguish."""
    return _TEN_COLORS[label % len(_TEN_COLORS)]


def colors_of(labels: Integer[Array | np.ndarray, " n"] | None, size: int) -> list[str]:
    """The colours of `size` examples: those of their classes, or the first colour if there are no classes."""
    return [color_of(0)] * size if labels is None else [color_of(label) for label in np.asarray(labels).tolist()]


def names_of(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """The names of the classes. By default their numbers."""
    if class_names is None:
        return [str(label) for label in range(num_classes)]
    if len(class_names) != num_classes:
        raise ValueError(
            f"`class_names` has {len(class_names)} names where {num_classes} are needed: one for each class"
        )
    return list(class_names)


def check_labels(name: str, labels: Integer[np.ndarray, " n"], num_classes: int, remedy: str) -> None:
    """Raise a `ValueError` unless each label is one of `0, ..., num_classes - 1`."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"`{name}` holds classes from {labels.min()} to {labels.max()} where 0 to {num_classes - 1} are needed: "
            f"{remedy}"
        )
