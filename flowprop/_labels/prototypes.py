"""Label embeddings by typical examples of the data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from .._batch import in_batches
from .._checked import described
from .._frozen import Frozen
from .._types import Inputs, Real, check_positive, check_shape, checked
from .embedding import Embedding, check_classes, check_norm
from .labelled import as_labels


@checked
def prototype_embedding(
    inputs: Inputs,
    labels: Any,
    *,
    encoder: Callable[[Any], Any] | None = None,
    norm: Real | None = 1.0,
    trainable: bool = True,
    num_classes: int | None = None,
    max_per_class: int = 1000,
) -> Embedding:
    """A label embedding by prototypes: the point of each class is its most typical example.

    The most typical example (the medoid) is the one with the smallest median distance to the other examples of its
    class. [NoProp](https://arxiv.org/abs/2503.24322) initialises its image-sized embeddings in this way (section 2.3).

    If `norm` is given, the mean over classes is subtracted first, because a component that all classes share does not
    separate them. On `fp.data.digits()` with norm 1, the smallest distance between two classes is then 1.04; without
    the subtraction it is 0.50.

    `norm` has the same meaning as for [`flowprop.one_hot_embedding`][], also for large images. The noise has unit
    variance in every pixel. But only its component along the differences between the points can hide a class, and that
    component does not grow with the image.

    ```python
    import flowprop as fp
    import numpy as np

    images = np.random.default_rng(0).normal(size=(30, 8, 8, 1)).astype(np.float32)
    embedding = fp.prototype_embedding(images, np.arange(30) % 3)
    print(embedding.matrix.shape)  # (3, 8, 8, 1)
    ```

    **Arguments:**

    - `inputs`: examples `(n, ...)`, finite. Bytes are divided by 255 if there is no encoder.
    - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
    - `encoder`: a callable on one input that returns an array. Distances are measured, and the prototypes lie, in the
      space of its outputs. By default they are those of the inputs themselves.
    - `norm`: the length to which every prototype is rescaled, positive, or `None` to use the examples as they are. In
      units of pixels, examples are long vectors: their class is recognised even in much noise, and they can grow in
      training.
    - `trainable`: whether the points are trained. If not, they are [`flowprop.Frozen`][].
    - `num_classes`: the number of classes. By default one more than the largest label.
    - `max_per_class`: the number of examples of each class that are compared: the first ones.

    **Returns:** an [`flowprop.Embedding`][] whose points have the shape of an input, or of the encoder's output.

    **Raises:** `ValueError` if there are not as many labels as inputs, if a label is out of range, if there are fewer
    than 2 classes, if a class has no example, if a compared example is not finite, or if a prototype equals the mean
    over classes and so cannot be rescaled; `TypeError` if the labels are not integers, or the encoder does not return a
    floating-point array.
    """
    check_positive(max_per_class=max_per_class, num_classes=num_classes)
    if norm is not None:
        check_norm(norm)
    known = np.asarray(as_labels(labels)).astype(int)
    check_shape("labels", known, (inputs.shape[0],), "one label for each input")
    members = _examples_by_class(known, num_classes, max_per_class)
    examples = jnp.asarray(np.asarray(inputs)[np.concatenate(members)])
    features = eqx.filter_jit(in_batches)(_pixels if encoder is None else encoder, (examples,), 500)
    if not eqx.is_inexact_array(features):
        raise TypeError(f"`encoder` returns {described(features)}: return one array of floating-point numbers")
    if not bool(jnp.all(jnp.isfinite(features))):
        raise ValueError(
            "`inputs`, or the outputs of `encoder`, have values that are not finite: leave these examples out"
        )

    groups = np.split(np.asarray(features), np.cumsum([len(rows) for rows in members[:-1]]))
    rows = jnp.asarray(np.stack([group[_most_typical(group.reshape(len(group), -1))] for group in groups]))
    if norm is not None:
        rows = rows - jnp.mean(rows, axis=0, keepdims=True)
        sizes = jnp.max(jnp.abs(rows.reshape(len(rows), -1)), axis=1)
        if jnp.min(sizes) <= 1e-6 * jnp.max(sizes):
            raise ValueError(f"`inputs` have the prototype of class {jnp.argmin(sizes)} at the mean: use `norm=None`")
    return Embedding(rows if trainable else Frozen(rows), norm)


def _pixels(image: Array) -> Array:
    return image / (255 if image.dtype == jnp.uint8 else 1)


def _examples_by_class(labels: np.ndarray, num_classes: int | None, max_per_class: int) -> list[np.ndarray]:
    """The positions of the first examples of each class."""
    if num_classes is None:
        num_classes = int(np.max(labels, initial=-1)) + 1
    check_classes(num_classes)
    low, high = np.min(labels, initial=0), np.max(labels, initial=0)
    if low < 0 or high >= num_classes:
        raise ValueError(f"`labels` lie in [{low}, {high}]: the classes are 0 to {num_classes - 1}")
    members = [np.flatnonzero(labels == label)[:max_per_class] for label in range(num_classes)]
    if empty := [label for label, rows in enumerate(members) if not len(rows)]:
        raise ValueError(f"`labels` have no example of the classes {empty}: give one of each, or another `num_classes`")
    return members


def _most_typical(points: Shaped[np.ndarray, "points dim"]) -> int:
    """The position of the point with the smallest median distance to the others.

    Distances are computed from scalar products in double precision, for some rows at a time: all distances of many
    points, or all their differences, would not fit into memory.
    """
    if len(points) == 1:
        return 0
    points = points.astype(np.float64) - np.mean(points, axis=0)
    squares = np.sum(np.square(points), axis=1)
    medians = []
    for rows in np.array_split(np.arange(len(points)), -(-len(points) // 500)):
        gaps = squares[rows, None] + squares - 2 * points[rows] @ points.T
        others = gaps[rows[:, None] != np.arange(len(points))].reshape(len(rows), -1)
        medians.append(np.median(np.sqrt(np.maximum(others, 0)), axis=1))
    return int(np.argmin(np.concatenate(medians)))
