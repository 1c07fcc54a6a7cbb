"""Classifying by a flow of labels: from noise to the embedding of a class, given the input."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from ._batch import example_keys, in_batches
from ._embedding import AbstractReadout, Embedding, RadialReadout
from ._flow import Flow
from ._prediction import CategoricalPrediction
from ._solve import AbstractIntegrator, label_integrator, transport
from ._types import Inputs, Labels, Point, PRNGKey, Scalar, Time, check_key, check_positive, check_shape, checked


class AbstractObjective(eqx.Module):
    """One example's training error."""

    @abc.abstractmethod
    def __call__(self, flow: Flow, t: Time, z0: Point, z1: Point, condition: PyTree, label: Int[Array, ""]) -> Scalar:
        """The error at time `t` between noise `z0` and the embedded label `z1`."""


class RegressionObjective(AbstractObjective):
    """The flow's own weighted squared error, which sees the embedded label only."""

    def __call__(self, flow: Flow, t: Time, z0: Point, z1: Point, condition: PyTree, label: Int[Array, ""]) -> Scalar:
        return flow.error(t, z0, z1, condition)


class CrossEntropyObjective(AbstractObjective):
    """Cross-entropy of the logits of a categorical prediction, at every time alike.

    It has the optimum of the squared error, `p(k | z_t, x)`, and is far better conditioned
    (Dieleman et al. 2022, section 3.2).
    """

    def __call__(self, flow: Flow, t: Time, z0: Point, z1: Point, condition: PyTree, label: Int[Array, ""]) -> Scalar:
        logits = flow.output(t, flow.path.interpolate(t, z0, z1), condition)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)


class Classifier(eqx.Module):
    """Predicts a label by flowing a noisy one to a clean one (NoProp, arXiv:2503.24322).

    The input is encoded once; the flow then moves in the space of label embeddings. The class is
    read off its end point alone: a readout that saw the input would make an ordinary classifier
    of it.

    **Arguments:**

    - `encoder`: a callable on one input, returning the features that condition the flow. By
      default the input itself.
    - `flow`: of the embeddings' shape. Its network is given the features as condition.
    - `embedding`: of the classes. Stored here alone.
    - `readout`: by default [`flowprop.RadialReadout`][]`()`.
    - `objective`: by default [`flowprop.CrossEntropyObjective`][]`()` for a categorical prediction and
      [`flowprop.RegressionObjective`][]`()` for any other.

    **Raises:** `ValueError` if flow and embedding differ in shape, or the objective needs another prediction.
    """

    encoder: Callable[[Any], PyTree]
    flow: Flow
    embedding: Embedding
    readout: AbstractReadout
    objective: AbstractObjective

    @checked
    def __init__(
        self,
        *,
        flow: Flow,
        embedding: Embedding,
        encoder: Callable[[Any], PyTree] | None = None,
        readout: AbstractReadout | None = None,
        objective: AbstractObjective | None = None,
    ) -> None:
        shape = embedding.matrix.shape[1:]
        if shape != flow.shape:
            raise ValueError(f"`flow` has shape {flow.shape} where `embedding` has points of {shape}: make them equal")
        if objective is None:
            categorical = isinstance(flow.prediction, CategoricalPrediction)
            objective = CrossEntropyObjective() if categorical else RegressionObjective()
        elif isinstance(objective, CrossEntropyObjective) and not isinstance(flow.prediction, CategoricalPrediction):
            raise ValueError(
                f"`objective` is the cross-entropy of logits, and the network of `flow` gives "
                f"{type(flow.prediction).__name__}: use `fp.CategoricalPrediction()` or `fp.RegressionObjective()`"
            )
        self.encoder = eqx.nn.Identity() if encoder is None else encoder
        self.flow = flow
        self.embedding = embedding
        self.readout = RadialReadout() if readout is None else readout
        self.objective = objective

    def condition(self, example: Array) -> PyTree:
        """What the flow is given of one input: its features, with the embeddings if need be.

        With it one solves for oneself: `fp.solve(clf.flow, z, clf.condition(image))`.
        """
        return self._condition(self.encoder(example), self.embedding.matrix)

    def _condition(self, features: PyTree, matrix: Array) -> PyTree:
        return (features, matrix) if isinstance(self.flow.prediction, CategoricalPrediction) else features

    @checked
    def loss(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> Scalar:
        """The simulation-free training loss: the objective's mean over the batch.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes, such as images `(n, height, width, channels)`.
        - `labels`: their classes, `(n,)`.
        - `key`: for times and noise.

        **Returns:** a scalar.

        **Raises:** `ValueError` if there are not as many labels as inputs, or one is out of range.
        """
        inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
        self._check(inputs, labels, key)
        matrix = self.embedding.matrix
        z1 = self.embedding(labels)
        key_t, key_z = jax.random.split(key)
        t = self.flow.sample_times(labels.shape[0], key=key_t).astype(z1.dtype)
        z0 = jax.random.normal(key_z, z1.shape, z1.dtype)

        flow = self.flow.with_fixed_path()

        def one(example: Array, label: Array, t: Array, z0: Point, z1: Point) -> tuple[Scalar, Scalar]:
            condition = self._condition(self.encoder(example), matrix)
            return self.objective(flow, t, z0, z1, condition, label), flow.unweighted_error(t, z0, z1, condition)

        errors, squares = jax.vmap(one)(inputs, labels, t, z0, z1)
        return jnp.mean(errors) + self.flow.schedule_loss(t, squares)

    @checked
    def predict_proba(
        self,
        inputs: Inputs,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        num_draws: int = 1,
        batch_size: int = 500,
    ) -> Float[Array, "batch classes"]:
        """Class probabilities, read off the end point of the labels' flow.

        One draw of the starting noise ends at one class; the mean over many estimates `p(y | x)`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. Each is encoded once.
        - `key`: for the starting noise; an input's result does not depend on its batch.
        - `integrator`: by default ten steps of Euler.
        - `num_draws`: of the starting noise, for each input.
        - `batch_size`: how many inputs are in memory at once.

        **Returns:** probabilities `(n, classes)`.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_draws=num_draws, batch_size=batch_size)
        integrator = label_integrator() if integrator is None else integrator
        return _predict(self, jnp.asarray(inputs), key, integrator, num_draws, batch_size)

    @checked
    def predict(
        self,
        inputs: Inputs,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        num_draws: int = 1,
        batch_size: int = 500,
    ) -> Int[Array, " batch"]:
        """The most probable classes, `(n,)`. Arguments as of `predict_proba`."""
        probabilities = self.predict_proba(
            inputs, key=key, integrator=integrator, num_draws=num_draws, batch_size=batch_size
        )
        return jnp.argmax(probabilities, axis=-1)

    def _check(self, inputs: Array, labels: Array, key: PRNGKey) -> None:
        check_key("key", key)
        check_shape("labels", labels, (inputs.shape[0],), "one label for each input")
        if not isinstance(labels, jax.core.Tracer) and labels.size:
            low, high, classes = int(np.min(labels)), int(np.max(labels)), self.embedding.matrix.shape[0]
            if low < 0 or high >= classes:
                raise ValueError(f"`labels` lie in [{low}, {high}]: the embedding has classes 0 to {classes - 1}")


@eqx.filter_jit
def _predict(
    classifier: Classifier,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    num_draws: int,
    batch_size: int,
) -> Array:
    flow, matrix = classifier.flow, classifier.embedding.matrix

    def one(example: Array, key: PRNGKey) -> Array:
        condition = classifier.condition(example)

        def draw(key: PRNGKey) -> Array:
            key_noise, key_path = jax.random.split(key)
            end = transport(flow, flow.draw_noise(key=key_noise), condition, integrator, key_path)
            return jnp.exp(classifier.readout(end, matrix))

        return jnp.mean(jax.vmap(draw)(example_keys(key, num_draws)), axis=0)

    return in_batches(one, (inputs, example_keys(key, inputs.shape[0])), batch_size)
