"""Reading a class off a point among the embeddings."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._types import (
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


#: Up to how many coordinates of differences are computed directly; beyond, by a product of matrices.
_FEW = 2**20


class AbstractReadout(eqx.Module):
    """The distribution over classes at a point. It sees the point only, never the input.

    A readout states in `has_gradient` whether the gradient of its log-probabilities can train anything.
    """

    has_gradient: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        """Log-probabilities of the classes at `z`."""


@checked
class RadialReadout(AbstractReadout):
    """Softmax of `-|z - u_k|^2 / (2 s^2)`: each class is a gaussian about its embedding.

    These are equations 15 and 16 of [NoProp](https://arxiv.org/abs/2503.24322). The scale follows the embeddings but no
    gradient passes through it: otherwise the loss would fall by drawing the nearest two embeddings together, which
    sharpens the readout for all others. Embeddings that coincide share their probability.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    readout = fp.RadialReadout(scale=0.2)
    log_probabilities = readout(jnp.array([0.9, 0.2, 0.0]), fp.one_hot_embedding(3).matrix)  # (3,)
    ```

    **Arguments:**

    - `scale`: `s`, in units of the smallest distance between two different embeddings.

    **Raises:** `ValueError` if `scale` is not positive and finite.
    """

    scale: Real = 0.2

    has_gradient: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_number("scale", self.scale, above=0, remedy="the readout's standard deviation is positive")

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        nearest = smallest_gap(jax.lax.stop_gradient(matrix))
        return jax.nn.log_softmax(-_square_distances(z, matrix) / (2 * self.scale**2 * nearest))


class NearestReadout(AbstractReadout):
    """All probability to the nearest embedding, or to the first of those equally near.

    It has no gradient, so it serves for predicting and not for training: an objective that reads the class off a point
    refuses it.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    readout = fp.NearestReadout()
    readout(jnp.array([0.9, 0.2, 0.0]), fp.one_hot_embedding(3).matrix)  # [0, -inf, -inf]
    ```
    """

    has_gradient: ClassVar[bool] = False

    @checked
    def __call__(self, z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
        distances = _square_distances(z, matrix)
        nearest = jnp.arange(distances.size) == jnp.argmin(distances)
        # The difference is 0 there, or NaN if `z` is NaN, which is no class.
        return jnp.where(nearest, jax.lax.stop_gradient(distances - jnp.min(distances)), -jnp.inf)


class LinearReadout(AbstractReadout):
    """Softmax of a linear map of the point, with parameters of its own.

    (Section 2.3 of [NoProp](https://arxiv.org/abs/2503.24322).) The parameters are trained by an objective that reads
    the class off a point, such as [`flowprop.ELBOObjective`][]. The readout does not use the embeddings: it learns from
    training where they lie.

    ```python
    import flowprop as fp
    import jax

    readout = fp.LinearReadout((20,), 10, key=jax.random.key(0))  # for ten embeddings of 20 numbers
    ```

    **Arguments:**

    - `shape`: the shape of one embedding.
    - `num_classes`: how many log-probabilities the readout returns.
    - `key`: a typed key for the initial weights.

    **Raises:** `ValueError` for a number that is not positive and, when called, for a point of another shape or another
    number of embeddings.
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
        check_shape("matrix", matrix, wanted, "make the readout for the embeddings' number and shape")
        return jax.nn.log_softmax(self.linear(jnp.ravel(z)))


def most_probable(probabilities: Float[Array, "batch classes"], inputs: Inputs) -> Int[Array, " batch"]:
    """The most probable class of each input; -1 if its probabilities are NaN.

    **Raises:** `ValueError` if all are NaN although the inputs are finite: then the model is at fault, not an input.
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
    """The smallest squared distance between two different rows; infinite if there are none.

    All differences of many rows would take as many numbers as `classes^2` times the size of a row. Many rows are
    therefore compared by a product of matrices, which loses digits to cancellation only if two rows are close. If so,
    the differences are computed after all, one row at a time.
    """
    rows = matrix.reshape(len(matrix), -1)
    if len(rows) * rows.size <= _FEW:
        return _smallest_of(_gaps(rows, rows))
    rows = rows - jnp.mean(rows, axis=0, keepdims=True)
    squares = jnp.sum(jnp.square(rows), axis=1)
    products = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    gaps = squares[:, None] + squares[None, :] - 2 * products
    others = jnp.where(jnp.eye(len(rows), dtype=bool), jnp.inf, gaps)
    # The best of each row without the rounding of the product.
    best = jnp.sum(jnp.square(rows - rows[jnp.argmin(others, axis=1)]), axis=1)
    return jax.lax.cond(
        jnp.min(others) > 0.01 * jnp.max(gaps),
        lambda: jnp.min(best),
        lambda: _smallest_of(jax.lax.map(lambda row: _square_distances(row, rows), rows)),
    )


def _smallest_of(gaps: Float[Array, "classes classes"]) -> Scalar:
    # Compiled, the distance of a point to itself is not always quite 0.
    differ = gaps > jnp.finfo(gaps.dtype).eps * jnp.max(gaps)
    return jnp.min(gaps, initial=jnp.inf, where=differ)


def _gaps(z: Float[Array, "points dim"], rows: Float[Array, "classes dim"]) -> Float[Array, "points classes"]:
    return jax.vmap(_square_distances, in_axes=(0, None))(z, rows)


def _square_distances(z: Point, matrix: Float[Array, "classes *shape"]) -> Float[Array, " classes"]:
    return jnp.sum(jnp.square(z[None] - matrix), axis=range(1, matrix.ndim))
