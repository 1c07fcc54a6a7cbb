"""Classifying by a flow of labels: from noise to the embedding of a class, given the input."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ._batch import example_keys, in_batches
from ._embedding import Embedding
from ._flow import Flow
from ._objective import AbstractObjective, choose_objective, condition_of, label_terms
from ._readout import AbstractReadout, RadialReadout
from ._solve import AbstractIntegrator, function_evaluations, label_integrator, solve, transport
from ._types import Inputs, Labels, PRNGKey, Scalar, check_key, check_positive, check_shape, checked


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
      [`flowprop.RegressionObjective`][]`()` for any other. [`flowprop.ELBOObjective`][] is NoProp-CT's own,
      [`flowprop.FlowMatchingObjective`][] NoProp-FM's.

    **Raises:** `ValueError` if flow and embedding differ in shape, the objective needs another prediction,
    or it does not train the readout's parameters.
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
        readout = RadialReadout() if readout is None else readout
        objective = choose_objective(objective, flow, embedding, readout)
        self.encoder = eqx.nn.Identity() if encoder is None else encoder
        self.flow = flow
        self.embedding = embedding
        self.readout = readout
        self.objective = objective

    def condition(self, example: Array) -> PyTree:
        """What the flow is given of one input: its features, with the embeddings if need be.

        With it one solves for oneself: `fp.solve(clf.flow, z, clf.condition(image))`.
        """
        return condition_of(self.flow, self.encoder(example), self.embedding)

    @checked
    def loss(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> Scalar:
        """The simulation-free training loss: the sum of `terms`. Arguments as of `terms`."""
        return sum_of(self.terms(inputs, labels, key=key))

    @checked
    def terms(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> dict[str, Scalar]:
        """The terms of the loss by name, each its mean over the batch.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes, such as images `(n, height, width, channels)`.
        - `labels`: their classes, `(n,)`.
        - `key`: for times and noise.

        **Returns:** the objective's terms, scalars; and where the noise schedule is learnable, `schedule`,
        of value 0, whose gradient trains the schedule's shape.

        **Raises:** `ValueError` if there are not as many labels as inputs, or one is out of range.
        """
        inputs, labels = check_labelled(inputs, labels, self.embedding, key)
        key_t, key_noise = jax.random.split(key)
        features = jax.vmap(self.encoder)(inputs)
        t = self.flow.sample_times(labels.shape[0], key=key_t)
        return label_terms(self.objective, self.flow, self.embedding, self.readout, features, labels, t, key=key_noise)

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

    @checked
    def function_evaluations(
        self, inputs: Inputs, *, key: PRNGKey, integrator: AbstractIntegrator | None = None, batch_size: int = 500
    ) -> Int[Array, " batch"]:
        """How often `predict` calls the flow's network for each input, `(n,)`; the encoder is called once.

        Rejected steps, all stages of a step and the closing evaluation of the target count. Arguments as of
        `predict_proba`.
        """
        check_key("key", key)
        check_positive(batch_size=batch_size)
        integrator = label_integrator() if integrator is None else integrator
        return _function_evaluations(self, jnp.asarray(inputs), key, integrator, batch_size)


def check_labelled(inputs: Inputs, labels: Labels, embedding: Embedding, key: PRNGKey) -> tuple[Array, Array]:
    """A labelled batch as JAX arrays.

    **Raises:** `ValueError` if there are not as many labels as inputs, or a known one is out of range.
    """
    check_key("key", key)
    check_shape("labels", labels, (inputs.shape[0],), "one label for each input")
    if not isinstance(labels, jax.core.Tracer) and labels.size:
        known, classes = np.asarray(labels), embedding.matrix.shape[0]
        if known.min() < 0 or known.max() >= classes:
            raise ValueError(
                f"`labels` lie in [{known.min()}, {known.max()}]: the embedding has classes 0 to {classes - 1}"
            )
    return jnp.asarray(inputs), jnp.asarray(labels)


def sum_of(terms: dict[str, Scalar]) -> Scalar:
    """The sum of a loss's terms."""
    return jnp.sum(jnp.stack(list(terms.values())))


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


@eqx.filter_jit
def _function_evaluations(
    classifier: Classifier, inputs: Array, key: PRNGKey, integrator: AbstractIntegrator, batch_size: int
) -> Array:
    flow = classifier.flow

    def one(example: Array, key: PRNGKey) -> Array:
        key_noise, key_path = jax.random.split(example_keys(key, 1)[0])
        condition = classifier.condition(example)
        solution = solve(flow, flow.draw_noise(key=key_noise), condition, integrator=integrator, key=key_path)
        return function_evaluations(solution, integrator) + (flow.span[1] < 1)

    return in_batches(one, (inputs, example_keys(key, inputs.shape[0])), batch_size)
