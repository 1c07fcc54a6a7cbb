"""Classification by a flow of labels: from noise to the embedding of a class, given the input."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._flow.flow import Flow
from .._solve import AbstractIntegrator, function_evaluations, label_integrator, solve, solve_to_data
from .._types import Inputs, PRNGKey, Scalar, Weights, check_key, check_positive, checked
from .draws import over_draws
from .embedding import Embedding
from .label_loss import choose_objective, condition_of, label_terms, sum_of
from .labelled import check_labels, check_weights
from .objective import AbstractObjective
from .readout import AbstractReadout, RadialReadout, most_probable


class Classifier(eqx.Module):
    """Predicts a label by moving a noisy label to a clean one, along a flow.

    This is [NoProp](https://arxiv.org/abs/2503.24322)'s classifier. The input is encoded once. The flow then moves in
    the space of label embeddings, from a point of its source. The class is read off the end point alone: a readout that
    saw the input would make an ordinary classifier of it.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(3,), condition_size=2, key=jax.random.key(0))
    flow = fp.Flow(net, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
    clf = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3))
    inputs, labels = jnp.ones((4, 2)), [0, 2, 1, 0]
    loss = clf.loss(inputs, labels, key=jax.random.key(1))  # what `fp.fit` minimises
    classes = clf.predict(inputs, key=jax.random.key(2))  # (4,)
    ```

    **Arguments:**

    - `encoder`: a callable on one input, which returns the features that condition the flow. By
      default the input itself.
    - `flow`: a flow of the embeddings' shape. Its network is given the features as condition. Training draws noise from
      its source and pairs it by its coupling, whose condition is the features.
    - `embedding`: the points of the classes. It is stored here alone.
    - `readout`: how a class is read off the end point. By default [`flowprop.RadialReadout`][]`()`.
    - `objective`: what is minimised. By default [`flowprop.CrossEntropyObjective`][]`()` for a categorical prediction
      and [`flowprop.RegressionObjective`][]`()` for any other. [`flowprop.ELBOObjective`][] is NoProp-CT's own,
      [`flowprop.FlowMatchingObjective`][] NoProp-FM's.

    **Raises:** `ValueError` if flow and embedding differ in shape, the flow has a transform, an encoder or a network
    with a state, or the objective needs another prediction, source, coupling or path, does not train the readout's
    parameters, or trains through a readout without a gradient.
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
        """The condition that the flow takes for one input: its features, with the embeddings if it predicts logits.

        Use it to solve the flow directly: `fp.solve(clf.flow, z, clf.condition(image))`.

        **Arguments:**

        - `example`: one input.

        **Returns:** the condition.
        """
        return condition_of(self.flow, self.encoder(example), self.embedding)

    @checked
    def check_data(self, inputs: Inputs, labels: Any) -> None:
        """Check a whole data set before training; `fp.fit` calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `labels`: their classes, `(n,)`.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels as
        inputs, or one is out of range.
        """
        check_labels(inputs, labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.embedding.num_classes

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The simulation-free training loss: the sum of `terms`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes, such as images `(n, height, width, channels)`.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for times and noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** as `terms`.
        """
        return sum_of(self.terms(inputs, labels, key=key, weights=weights))

    @checked
    def terms(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> dict[str, Scalar]:
        """The terms of the loss by name, each its mean over the batch.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes, such as images `(n, height, width, channels)`.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for times and noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** the objective's terms, scalars. If the noise schedule is learnable there is one more, `schedule`,
        of value 0, whose gradient trains the schedule's shape.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels or
        weights as inputs, a label is out of range, or a weight is negative or not finite.
        """
        labels, weights = check_labels(inputs, labels, self.num_classes), check_weights(weights, inputs.shape[0])
        check_key("key", key)
        key_t, key_noise = jax.random.split(key)
        features = jax.vmap(self.encoder)(jnp.asarray(inputs))
        t = self.flow.sample_times(labels.shape[0], key=key_t)
        parts = self.objective, self.flow, self.embedding, self.readout
        return label_terms(*parts, features, jnp.asarray(labels), t, weights, key=key_noise)

    @checked
    def predict_proba(
        self,
        inputs: Inputs,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        num_draws: int = 1,
        batch_size: int | None = None,
    ) -> Float[Array, "batch classes"]:
        """Class probabilities, read off the end point of the labels' flow.

        One draw of the starting noise ends at one class; the mean over many draws estimates `p(y | x)`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. Each input is encoded once.
        - `key`: a typed key for the starting noise; an input's result does not depend on its batch.
        - `integrator`: by default ten steps of Euler.
        - `num_draws`: how many draws of the starting noise, for each input.
        - `batch_size`: how many inputs are solved at once, each with its draws. By default as many as make 1024 draws.

        **Returns:** probabilities `(n, classes)`. An input that is not finite, or whose features are not, or
        whose solve fails, has NaN in its row; the other rows are not affected.

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
        batch_size: int | None = None,
    ) -> Int[Array, " batch"]:
        """The most probable classes.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. Each input is encoded once.
        - `key`: a typed key for the starting noise; an input's result does not depend on its batch.
        - `integrator`: by default ten steps of Euler.
        - `num_draws`: how many draws of the starting noise, for each input.
        - `batch_size`: how many inputs are solved at once, each with its draws. By default as many as make 1024 draws.

        **Returns:** classes `(n,)`; -1 for an input whose probabilities are NaN.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive, or, outside of `jax.jit`, if the
        probabilities of all inputs are NaN although the inputs are finite.
        """
        probabilities = self.predict_proba(
            inputs, key=key, integrator=integrator, num_draws=num_draws, batch_size=batch_size
        )
        return most_probable(probabilities, inputs)

    @checked
    def function_evaluations(
        self,
        inputs: Inputs,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        batch_size: int | None = None,
    ) -> Int[Array, " batch"]:
        """How often `predict` calls the flow's network for each input; the encoder is called once.

        Rejected steps, all stages of a step and the closing evaluation of the target count.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `key`: a typed key for the starting noise, the same as given to `predict`.
        - `integrator`: by default ten steps of Euler.
        - `batch_size`: how many inputs are solved at once. By default 1024.

        **Returns:** counts `(n,)`. For an input that is not finite, the count is that of features of 0;
        for a solve that fails, it is the calls up to there.

        **Raises:** `ValueError` if `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(batch_size=batch_size)
        integrator = label_integrator() if integrator is None else integrator
        return _function_evaluations(self, jnp.asarray(inputs), key, integrator, batch_size)


@eqx.filter_jit
def _predict(
    classifier: Classifier,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    num_draws: int,
    batch_size: int | None,
) -> Array:
    flow, matrix = classifier.flow, classifier.embedding.matrix

    def draw(condition: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        noise = flow.draw_noise(key=key_noise).astype(matrix.dtype)
        end, succeeded = solve_to_data(flow, noise, condition, integrator, key_path)
        return jnp.exp(classifier.readout(end, matrix)), succeeded

    def mean(draws: Array) -> Array:
        return jnp.mean(draws, axis=0)

    return over_draws(classifier.condition, draw, mean, inputs, key, num_draws, batch_size)


@eqx.filter_jit
def _function_evaluations(
    classifier: Classifier, inputs: Array, key: PRNGKey, integrator: AbstractIntegrator, batch_size: int | None
) -> Array:
    flow, dtype = classifier.flow, classifier.embedding.matrix.dtype

    def count(condition: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        noise = flow.draw_noise(key=key_noise).astype(dtype)
        solution = solve(flow, noise, condition, integrator=integrator, key=key_path, throw=False)
        return function_evaluations(solution, integrator) + (flow.span[1] < 1), jnp.asarray(True)

    def first(draws: Array) -> Array:
        return draws[0]

    return over_draws(classifier.condition, count, first, inputs, key, 1, batch_size)
