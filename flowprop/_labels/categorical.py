"""Logits over classes as an estimate of the target."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._path.path import AbstractPath, Estimate
from .._path.prediction import AbstractPrediction
from .._types import Point, Scalar, Time, Times


class CategoricalPrediction(AbstractPrediction):
    """The network returns logits over classes, and the target is `u = softmax(logits) W`.

    ([NoProp](https://arxiv.org/abs/2503.24322), section 2.3.2.) The rows of `W` are the embeddings of the classes. The
    optimal target of class embeddings is `sum_k p(k | z_t, x) W_k`, so nothing is lost. The embeddings are part of the
    condition, `(features, W)`, of which the network is given the features only. They are not stored here, because a
    matrix stored here and in the classifier would become two separate parameters.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    prediction = fp.CategoricalPrediction()
    flow = fp.Flow(lambda t, z, x: x, fp.CondOTPath(), prediction, shape=(2,))
    logits, W = jnp.zeros(3), jnp.array([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    print(flow.target(0.5, jnp.zeros(2), (logits, W)).round(4))  # [1. 1.]
    ```
    """

    @property
    def takes_embeddings(self) -> bool:
        return True

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return path.target_span

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return path.from_target(t, z, self._target(output, condition))

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return jnp.sum(jnp.square(self._target(output, condition) - z1))

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.ones_like(path.alpha(t))

    def interface(self, shape: tuple[int, ...], condition: PyTree) -> tuple[PyTree, tuple[int, ...]]:
        features, matrix = _features_and_matrix(condition)
        return features, matrix.shape[:1]

    def _target(self, logits: Float[Array, " classes"], condition: PyTree) -> Point:
        return jnp.tensordot(jax.nn.softmax(logits), _features_and_matrix(condition)[1], axes=1)


def _features_and_matrix(condition: PyTree) -> tuple[PyTree, Float[Array, "classes *shape"]]:
    if not (isinstance(condition, tuple) and len(condition) == 2):
        raise ValueError(
            f"`x` is {type(condition).__name__} where a categorical prediction needs the pair `(features, W)`, with "
            "the class embeddings W, one in each row: make it with `fp.Classifier.condition`"
        )
    return condition
