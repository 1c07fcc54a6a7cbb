"""Readouts: the decoding of a point of label space into class probabilities."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._types import (
    Inputs,
    Point,
    PRNGKey,
    Real,
    Scalar,
    check_key,
    check_number,
    check_positive,
    check_shape,
    checked,
    is_traced,
)


#: Up to this many coordinates of differences are computed directly, and more by a matrix product.
_FEW = 2**20


class AbstractReadout(eqx.Module):
    """Base class of readouts, which decode the end point of a flow into class probabilities (NoProp's `p_out(y | z)`).

    A readout is given the point only, never the input. A class of your own defines:

    - `has_gradient`: a class attribute, whether its log-probabilities have a useful gradient. If not, no objective
      trains through it.
    - `__call__(z, matrix)`: the log-probabilities of the classes at the point `z`.
    """

    has_gradient: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        """The log-probabilities of the classes at a point.

        **Arguments:**

        - `z`: one point, in data coordinates, `(*shape)`.
        - `matrix`: the points of the classes, `(classes, *shape)`.

        **Returns:** log-probabilities `(classes,)`.
        """


@checked
class RadialReadout(AbstractReadout):
    """Decodes by distance: the softmax of `-|z - u_k|^2 / (2 s^2)`, as if each class were a gaussian around `u_k`.

    These are equations 15 and 16 of [NoProp](https://arxiv.org/abs/2503.24322). `s` is `scale` times the smallest
    distance between the points of two classes, so it follows the embedding. No gradient passes through this distance:
    otherwise training could lower the loss by moving the two nearest points together, which makes the readout sharper
    for all other classes. Classes whose points coincide share their probability.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    readout = fp.RadialReadout(scale=0.2)
    log_probs = readout(jnp.array([0.9, 0.2, 0.0]), fp.one_hot_embedding(3).matrix)
    print(log_probs.shape, int(jnp.argmax(log_probs)))  # (3,) 0
    ```

    **Arguments:**

    - `scale`: `s`, in units of the smallest distance between two different points.

    **Raises:** `ValueError` if `scale` is not positive and finite.
    """

    scale: Real = 0.2

    has_gradient: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_number("scale", self.scale, above=0, remedy="give a positive standard deviation")

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        nearest = smallest_gap(jax.lax.stop_gradient(matrix))
        return jax.nn.log_softmax(-_square_distances(z, matrix) / (2 * self.scale**2 * nearest))


class NearestReadout(AbstractReadout):
    """Decodes as the nearest class, with probability 1. Of several equally near classes it takes the first.

    It has no gradient, so use it for prediction. Objectives that train through the readout refuse it.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    readout = fp.NearestReadout()
    print(readout(jnp.array([0.9, 0.2, 0.0]), fp.one_hot_embedding(3).matrix))  # [  0. -inf -inf]
    ```
    """

    has_gradient: ClassVar[bool] = False

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        distances = _square_distances(z, matrix)
        nearest = jnp.arange(distances.size) == jnp.argmin(distances)
        # For the nearest class the difference is 0, or NaN if `z` is NaN, which has no class.
        return jnp.where(nearest, jax.lax.stop_gradient(distances - jnp.min(distances)), -jnp.inf)


class LinearReadout(AbstractReadout):
    """Decodes with a trained linear layer and a softmax: `log_softmax(A z + b)`.

    This is the readout of section 2.3 of [NoProp](https://arxiv.org/abs/2503.24322). An objective that trains through
    the readout trains `A` and `b`, such as [`flowprop.ELBOObjective`][]. The readout does not use the points of the
    classes. It learns from the training data where they are.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    key_readout, key_embedding = jax.random.split(jax.random.key(0))
    readout = fp.LinearReadout((20,), 10, key=key_readout)
    matrix = fp.learned_embedding(10, 20, key=key_embedding).matrix
    print(readout(jnp.zeros(20), matrix).shape)  # (10,)
    ```

    **Arguments:**

    - `shape`: the shape of a point.
    - `num_classes`: the number of classes.
    - `key`: a typed key for the initial weights.

    **Raises:** `ValueError` if a size is not positive. When called, also for a point of another shape or another number
    of classes.
    """

    has_gradient: ClassVar[bool] = True

    linear: eqx.nn.Linear
    shape: tuple[int, ...] = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    @checked
    def __init__(self, shape: tuple[int, ...], num_classes: int, *, key: PRNGKey) -> None:
        check_key("key", key)
        check_positive(num_classes=num_classes, **{f"shape[{i}]": size for i, size in enumerate(shape)})
        self.linear = eqx.nn.Linear(math.prod(shape), num_classes, key=key)
        self.shape = shape
        self.num_classes = num_classes

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        wanted = (self.num_classes, *self.shape)
        check_shape("matrix", matrix, wanted, "make the readout for the embedding's number of classes and shape")
        return jax.nn.log_softmax(self.linear(jnp.ravel(z)))


def most_probable(probabilities: Float[Array, "batch classes"], inputs: Inputs) -> Int[Array, " batch"]:
    """The most probable class of each input; -1 if its probabilities are NaN.

    **Raises:** `ValueError` if all probabilities are NaN although the inputs are finite: then the model is at fault.
    """
    missing = jnp.any(jnp.isnan(probabilities), axis=1)
    if missing.size and not is_traced(missing, inputs) and bool(jnp.all(missing)) and _all_finite(inputs):
        raise ValueError(
            f"the probabilities of all {missing.size} `inputs` are NaN although the inputs are finite: the model's "
            "parameters are not finite, or its solve fails; load an earlier model, or try another integrator"
        )
    return jnp.where(missing, -1, jnp.argmax(probabilities, axis=1))


def _all_finite(inputs: Inputs) -> bool:
    return not jnp.issubdtype(inputs.dtype, jnp.inexact) or bool(jnp.all(jnp.isfinite(jnp.asarray(inputs))))


def smallest_gap(matrix: Float[Array, "classes *shape"]) -> Scalar:
    """The smallest squared distance between two different rows; infinite if all rows are equal.

    Computing all differences takes `classes^2` times the size of a row in memory. So many rows are compared by a matrix
    product. It loses digits to cancellation only if two rows are close. In that case, the differences are computed
    after all, for one row at a time.
    """
    rows = matrix.reshape(len(matrix), -1)
    if len(rows) * rows.size <= _FEW:
        return _smallest_of(_gaps(rows, rows))
    rows = rows - jnp.mean(rows, axis=0, keepdims=True)
    squares = jnp.sum(jnp.square(rows), axis=1)
    products = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    gaps = squares[:, None] + squares[None, :] - 2 * products
    others = jnp.where(jnp.eye(len(rows), dtype=bool), jnp.inf, gaps)
    # For the nearest neighbour of each row, the distance is computed without the rounding of the product.
    best = jnp.sum(jnp.square(rows - rows[jnp.argmin(others, axis=1)]), axis=1)
    return jax.lax.cond(
        jnp.min(others) > 0.01 * jnp.max(gaps),
        lambda: jnp.min(best),
        lambda: _smallest_of(jax.lax.map(lambda row: _square_distances(row, rows), rows)),
    )


def _smallest_of(gaps: Float[Array, "classes classes"]) -> Scalar:
    # In compiled code, the distance of a point to itself is not always exactly 0.
    differ = gaps > jnp.finfo(gaps.dtype).eps * jnp.max(gaps)
    return jnp.min(gaps, initial=jnp.inf, where=differ)


def _gaps(z: Float[Array, "points dim"], rows: Float[Array, "classes dim"]) -> Float[Array, "points classes"]:
    return jax.vmap(_square_distances, in_axes=(0, None))(z, rows)


def _square_distances(z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
    return jnp.sum(jnp.square(z[None] - matrix), axis=range(1, matrix.ndim))
