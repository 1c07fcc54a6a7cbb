"""A classifier whose flow carries noise to the embedding of a class, given the input."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._batch import in_buckets
from .._devices import compiled, row_sharding
from .._flow.flow import Flow
from .._flow.training import sample_times
from .._solve import AbstractIntegrator, function_evaluations, label_integrator, solve, solve_to_data
from .._types import Inputs, PRNGKey, Scalar, Weights, check_key, check_positive, checked
from .draws import over_draws
from .embedding import Embedding
from .label_loss import choose_objective, condition_of, label_terms, sum_of
from .labelled import check_labels, check_weights
from .objective import AbstractObjective
from .readout import AbstractReadout, RadialReadout, most_probable


class Classifier(eqx.Module):
    """Classifies an input by denoising its label: a flow carries noise to the embedding of a class.

    This is the classifier of [NoProp](https://arxiv.org/abs/2503.24322), algorithms 2 and 3. It has four parts:

    - The **encoder** turns an input into features. It is called once for each input.
    - The **label embedding** gives each class `k` a point `u_k`.
    - The **flow** starts at a point `z_0` of its source (noise) and ends near one of these points. Its network, the
      denoiser, is given the time, the noisy label `z_t` and the features. So the flow samples labels from
      `p(label | input)`.
    - The **readout** decodes the end point into class probabilities. It does not see the input: otherwise it could
      classify the features alone, and the flow would not be needed.

    Training needs no solve. It takes a label's point `z_1 = u_y`, mixes it with noise to `z_t` at a random time, and
    trains the network to recover the clean label from `z_t` and the features.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp
    import optax

    key_net, key_data, key_fit, key_predict = jax.random.split(jax.random.key(0), 4)
    labels = jnp.arange(300) % 3
    inputs = jax.nn.one_hot(labels, 3)[:, :2] + 0.1 * jax.random.normal(key_data, (300, 2))

    net = fp.nn.MLP(shape=(3,), condition_size=2, width=32, depth=2, key=key_net)
    flow = fp.Flow(net, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
    clf = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3))
    clf, history = fp.fit(
        clf, (inputs, labels), optax.adam(1e-2), steps=100, batch_size=100, key=key_fit, progress=False
    )
    classes = clf.predict(inputs, key=key_predict)
    print(classes.shape, bool(jnp.mean(classes == labels) > 0.9))  # (300,) True
    ```

    **Arguments:**

    - `flow`: a flow of the embedding's shape. Its condition (context) is the features. Training draws noise from the
      flow's source (base distribution). The flow's coupling (minibatch pairing) pairs noise with labels; the coupling's
      condition is the features.
    - `embedding`: the points of the classes, such as [`flowprop.one_hot_embedding`][]`(10)`. Only the classifier stores
      them; the flow gets them with each call.
    - `encoder`: a callable on one input that returns its features: an array, or a PyTree of arrays. It is trained along
      with the flow. By default the features are the input itself.
    - `readout`: the decoding of the end point into class probabilities. By default [`flowprop.RadialReadout`][]`()`.
    - `objective`: the training loss. By default [`flowprop.CrossEntropyObjective`][]`()` for a categorical prediction,
      and [`flowprop.RegressionObjective`][]`()` for any other. The objective of NoProp-CT is
      [`flowprop.ELBOObjective`][], that of NoProp-FM is [`flowprop.FlowMatchingObjective`][].

    **Raises:** `ValueError` if

    - flow and embedding differ in shape;
    - the flow has a transform, an encoder, or a network with a state;
    - the objective needs another prediction, source, coupling or path;
    - the readout has parameters that the objective does not train;
    - the objective trains through the readout and the readout has no gradient.
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
        """The flow's condition for one input: its features, and the embedding matrix if the network returns logits.

        Use it to call [`flowprop.solve`][] directly: `fp.solve(clf.flow, z, clf.condition(image))`.

        **Arguments:**

        - `example`: one input, without a batch axis.

        **Returns:** the features, or `(features, matrix)` with the embedding matrix `(classes, *shape)`.
        """
        return condition_of(self.flow, self.encoder(example), self.embedding)

    @checked
    def check_data(self, inputs: Inputs, labels: Any) -> None:
        """Check a whole data set. [`flowprop.fit`][] calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        as inputs, or if a label is out of range.
        """
        check_labels(inputs, labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.embedding.num_classes

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss, which [`flowprop.fit`][] minimises: the sum of `terms`. It needs no solve.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes, such as images `(n, height, width, channels)`.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the random times and the noise.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        return sum_of(self.terms(inputs, labels, key=key, weights=weights))

    @checked
    def terms(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> dict[str, Scalar]:
        """The terms of the training loss by name, each averaged over the batch.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes, such as images `(n, height, width, channels)`.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the random times and the noise.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a dict of scalars, the terms of the objective. If the noise schedule is learnable, the dict also
        has `schedule`. This term is 0, and its gradient trains the shape of the schedule.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        labels, weights = check_labels(inputs, labels, self.num_classes), check_weights(weights, inputs.shape[0])
        check_key("key", key)
        key_t, key_noise = jax.random.split(key)
        features = jax.vmap(self.encoder)(jnp.asarray(inputs))
        t = sample_times(self.flow, labels.shape[0], key=key_t)
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
        """Class probabilities: the flow is solved from noise, and the readout decodes its end point.

        One draw of the starting noise ends near the point of one class, so its probabilities are near 0 and 1. The mean
        over many draws estimates `p(y | x)`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. The encoder is called once for each input.
        - `key`: a typed key for the starting noise. The result for an input depends on the key and on its position,
          not on the other inputs.
        - `integrator`: how the flow is solved. By default ten steps of Euler's method.
        - `num_draws`: the number of draws of the starting noise for each input; the probabilities are their mean.
        - `batch_size`: how many inputs are solved at once, each with its draws. By default as many as give 1024 draws.

        **Returns:** probabilities `(n, classes)`. A row is NaN if its input or its features are not finite, or if its
        solve fails. The other rows are not affected.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_draws=num_draws, batch_size=batch_size)
        integrator = label_integrator() if integrator is None else integrator
        inputs = jnp.asarray(inputs)
        rows = row_sharding(self, inputs)

        def compute(_: int, inputs: Array) -> Array:
            return _predict(self, inputs, key, integrator, num_draws, batch_size, rows=rows)

        return in_buckets(compute, inputs.shape[0], (inputs,), rows, self, key)

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
        """The most probable class of each input, by `predict_proba`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. The encoder is called once for each input.
        - `key`: a typed key for the starting noise. The result for an input depends on the key and on its position,
          not on the other inputs.
        - `integrator`: how the flow is solved. By default ten steps of Euler's method.
        - `num_draws`: the number of draws of the starting noise for each input; the probabilities are their mean.
        - `batch_size`: how many inputs are solved at once, each with its draws. By default as many as give 1024 draws.

        **Returns:** classes `(n,)`; -1 for an input whose probabilities are NaN.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive. Outside of `jax.jit`, also if the
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
        """How often `predict` calls the flow's network for each input. The encoder is called once and not counted.

        The count includes all stages of a step, rejected steps, and the final evaluation of the target.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `key`: a typed key for the starting noise: the same as in `predict`.
        - `integrator`: how the flow is solved. By default ten steps of Euler's method.
        - `batch_size`: how many inputs are solved at once. By default 1024.

        **Returns:** counts `(n,)`. For an input that is not finite, the count is the one for features of 0. For a
        solve that fails, it is the number of calls before the failure.

        **Raises:** `ValueError` if `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(batch_size=batch_size)
        integrator = label_integrator() if integrator is None else integrator
        inputs = jnp.asarray(inputs)
        return _function_evaluations(self, inputs, key, integrator, batch_size, rows=row_sharding(self, inputs))


@compiled
def _predict(
    classifier: Classifier,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    num_draws: int,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> Array:
    flow, matrix = classifier.flow, classifier.embedding.matrix

    def draw(condition: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        noise = flow.draw_noise(key=key_noise).astype(matrix.dtype)
        end, succeeded = solve_to_data(flow, noise, condition, integrator, key_path)
        return jnp.exp(classifier.readout(end, matrix)), succeeded

    def mean(draws: Array) -> Array:
        return jnp.mean(draws, axis=0)

    return over_draws(classifier.condition, draw, mean, inputs, key, num_draws, batch_size, rows)


@compiled
def _function_evaluations(
    classifier: Classifier,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> Array:
    flow, dtype = classifier.flow, classifier.embedding.matrix.dtype

    def count(condition: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        noise = flow.draw_noise(key=key_noise).astype(dtype)
        solution = solve(flow, noise, condition, integrator=integrator, key=key_path, throw=False)
        return function_evaluations(solution, integrator) + (flow.span[1] < 1), jnp.asarray(True)

    def first(draws: Array) -> Array:
        return draws[0]

    return over_draws(classifier.condition, count, first, inputs, key, 1, batch_size, rows)
