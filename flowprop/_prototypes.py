"""Classes as examples of the data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from ._batch import in_batches
from ._embedding import Embedding, check_classes, check_norm
from ._frozen import Frozen
from ._labelled import as_labels
from ._types import Inputs, Real, check_positive, check_shape, checked


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
    """Each class as its most typical example: the one of smallest median distance to the others of its class.

    [NoProp](https://arxiv.org/abs/2503.24322) initialises its image-sized embeddings in this way (section 2.3). If
    `norm` is given, the mean over classes is subtracted first, because a component that all classes share does not
    separate them. Measured on `fp.data.digits()` at norm 1, the smallest distance is then 1.04, and 0.50 with the mean
    left in.

    The norm has the same meaning as for one-hot embeddings. The noise has unit variance in every pixel,
    but only its part along the differences of embeddings can hide a class, and that part does not grow
    with the image.

    ```python
    import flowprop as fp

    images, labels, _, _ = fp.data.digits()
    embedding = fp.prototype_embedding(images, labels)  # points (8, 8, 1)
    ```

    **Arguments:**

    - `inputs`: examples `(n, ...)`, finite. Bytes are divided by 255, unless there is an encoder to do so.
    - `labels`: their classes, integers `(n,)`: an array or a list.
    - `encoder`: a callable on one input that returns an array: the space of distances and embeddings.
      By default that of the inputs themselves.
    - `norm`: the length of every embedding, positive, or `None` for the examples as they are. In units of pixels
      they are long, which gives the label away early, and free to grow if they are trained.
    - `trainable`: whether they are trained; otherwise they are [`flowprop.Frozen`][].
    - `num_classes`: by default one more than the largest label.
    - `max_per_class`: how many examples of a class are compared, the first ones.

    **Returns:** the embedding, of points of an input's shape or of the encoder's output's.

    **Raises:** `ValueError` if there are not as many labels as inputs, a label is out of range, there are
    fewer than 2 classes, a class has no example, an example that is compared is not finite, or a prototype is the mean
    of all and so has no direction; `TypeError` if the labels are no integers or the encoder does not return a
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
        raise TypeError(f"`encoder` returns {features!r} where one array of floating-point numbers is needed")
    if not bool(jnp.all(jnp.isfinite(features))):
        raise ValueError(
            "`inputs`, or what `encoder` returns, has values that are not finite: leave these examples out"
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
    """Where the first examples of each class are."""
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
    """The point of smallest median distance to the others.

    In double precision, by scalar products, and in blocks: all distances of many points, or all
    their differences, would not fit into memory.
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
