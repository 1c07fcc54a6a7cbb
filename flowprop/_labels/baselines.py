"""The baselines of NoProp: the same networks, trained by gradients through the whole of inference."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._batch import example_keys
from .._flow.flow import Flow
from .._solve import AbstractODEIntegrator, label_integrator, to_end_of_path
from .._types import Inputs, Point, PRNGKey, Scalar, Time, Weights, check_key, checked
from .classifier import Classifier
from .embedding import Embedding
from .label_loss import check_gradient, condition_of
from .labelled import check_labels, check_weights, weighted_mean
from .noprop_dt import NoPropDT


@checked
class BackpropClassifier(eqx.Module):
    """A baseline for NoProp-DT: the same blocks, trained end to end by back-propagation.

    The loss is `-log p_out(y | z_T)`, where `z_T` is the end of the blocks' inference from noise ([NoProp](
    https://arxiv.org/abs/2503.24322), equations 17 to 19). So the gradient of a block passes through all blocks after
    it. Prediction is the same as for [`flowprop.NoPropDT`][].

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp
    import optax

    keys = jax.random.split(jax.random.key(0), 3)
    networks = [fp.nn.MLP(shape=(3,), condition_size=2, width=16, depth=1, key=key) for key in keys]
    model = fp.BackpropClassifier(fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3)))
    data = jnp.ones((4, 2)), jnp.array([0, 2, 1, 0])
    model, history = fp.fit(
        model, data, optax.adam(1e-2), steps=2, batch_size=4, key=keys[0], progress=False
    )
    print(history["loss"].shape)  # (2,)
    ```

    **Arguments:**

    - `blocks`: the blocks. Their objective is not used. Networks that take a key (for dropout) are called without it,
      as in prediction.

    **Raises:** `ValueError` if the readout of the blocks has no gradient.
    """

    blocks: NoPropDT

    def __check_init__(self) -> None:
        check_gradient(self.blocks.readout, "back-propagation")

    @checked
    def check_data(self, inputs: Inputs, labels: Any) -> None:
        """Check a whole data set. [`flowprop.fit`][] calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        as inputs, or if a label is out of range.
        """
        self.blocks.check_data(inputs, labels)

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss: the cross-entropy of the readout at the end of the last block.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the starting noise and the noise of the steps.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        blocks = self.blocks
        labels, weights = check_labels(inputs, labels, blocks.num_classes), check_weights(weights, inputs.shape[0])
        check_key("key", key)

        def error(example: Array, label: Array, key: PRNGKey) -> Scalar:
            end = blocks.transport(blocks.encode(example), key=key)
            return -blocks.readout(end, blocks.embedding.matrix)[label]

        batch = jnp.asarray(inputs), jnp.asarray(labels), example_keys(key, labels.shape[0])
        return weighted_mean(jax.vmap(error)(*batch), weights)

    def predict_proba(self, inputs: Inputs, **options: Any) -> Float[Array, "batch classes"]:
        """Class probabilities: the same as [`flowprop.NoPropDT.predict_proba`][].

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `options`: `key`, and if wanted `num_draws` and `batch_size`, as in
          [`flowprop.NoPropDT.predict_proba`][].

        **Returns:** probabilities `(n, classes)`.
        """
        return self.blocks.predict_proba(inputs, **options)

    def predict(self, inputs: Inputs, **options: Any) -> Int[Array, " batch"]:
        """The most probable class of each input: the same as [`flowprop.NoPropDT.predict`][].

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `options`: `key`, and if wanted `num_draws` and `batch_size`, as in [`flowprop.NoPropDT.predict`][].

        **Returns:** classes `(n,)`; -1 for an input whose probabilities are NaN.
        """
        return self.blocks.predict(inputs, **options)


class AdjointClassifier(eqx.Module):
    """A baseline for NoProp-CT and NoProp-FM: the same classifier, trained as a neural ODE, through its solve.

    The loss is `-log p_out(y | z_1)`, where `z_1` is the end of the solve from a point of the flow's source ([Chen et
    al. 2018](https://arxiv.org/abs/1806.07366)). The adjoint of the integrator computes the gradient;
    `diffrax.BacksolveAdjoint()` is the adjoint method of that paper. A batch is solved as one ODE, and its examples
    share adaptive steps. So the adjoint carries the gradient of the parameters once, not once for each example.

    ```python
    import diffrax as dfx
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(3,), condition_size=2, width=16, depth=1, key=jax.random.key(0))
    clf = fp.Classifier(flow=fp.fm_flow(net, shape=(3,)), embedding=fp.one_hot_embedding(3))
    euler = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.25)
    model = fp.AdjointClassifier(clf, euler)
    loss = model.loss(jnp.ones((4, 2)), [0, 2, 1, 0], key=jax.random.key(1))  # `fp.fit` minimises this
    print(loss.shape)  # ()
    ```

    **Arguments:**

    - `classifier`: encoder, flow, embedding and readout. Its objective and the coupling of its flow are not used,
      since no noise is paired with a label. A network that takes a key (for dropout) is called without it, as in
      prediction.
    - `integrator`: solves the flow in training, and in prediction if no other is given. By default ten steps of Euler's
      method.

    **Raises:** `ValueError` if the readout of the classifier has no gradient.
    """

    classifier: Classifier
    integrator: AbstractODEIntegrator

    @checked
    def __init__(self, classifier: Classifier, integrator: AbstractODEIntegrator | None = None) -> None:
        check_gradient(classifier.readout, "the adjoint")
        self.classifier = classifier
        self.integrator = label_integrator() if integrator is None else integrator

    @checked
    def check_data(self, inputs: Inputs, labels: Any) -> None:
        """Check a whole data set. [`flowprop.fit`][] calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        as inputs, or if a label is out of range.
        """
        self.classifier.check_data(inputs, labels)

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss: the cross-entropy of the readout at the end of the solve.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the starting noise.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        classifier = self.classifier
        labels, weights = check_labels(inputs, labels, classifier.num_classes), check_weights(weights, inputs.shape[0])
        check_key("key", key)
        flow, embedding = classifier.flow, classifier.embedding
        z0 = jax.vmap(lambda key: flow.draw_noise(key=key))(example_keys(key, labels.shape[0]))
        features = jax.vmap(classifier.encoder)(jnp.asarray(inputs))
        start = z0.astype(embedding.matrix.dtype)
        ends = self.integrator.end_point(_Velocities(flow, embedding), start, features, *flow.span)

        def error(end: Array, features: PyTree, label: Array) -> Scalar:
            end = to_end_of_path(flow, end, condition_of(flow, features, embedding))
            return -classifier.readout(end, embedding.matrix)[label]

        return weighted_mean(jax.vmap(error)(ends, features, jnp.asarray(labels)), weights)

    def predict_proba(self, inputs: Inputs, **options: Any) -> Float[Array, "batch classes"]:
        """Class probabilities: the same as [`flowprop.Classifier.predict_proba`][].

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `options`: `key`, and if wanted `integrator`, `num_draws` and `batch_size`, as in
          [`flowprop.Classifier.predict_proba`][]. By default the integrator is that of training.

        **Returns:** probabilities `(n, classes)`.
        """
        return self.classifier.predict_proba(inputs, **{"integrator": self.integrator} | options)

    def predict(self, inputs: Inputs, **options: Any) -> Int[Array, " batch"]:
        """The most probable class of each input: the same as [`flowprop.Classifier.predict`][].

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `options`: `key`, and if wanted `integrator`, `num_draws` and `batch_size`, as in
          [`flowprop.Classifier.predict`][]. By default the integrator is that of training.

        **Returns:** classes `(n,)`; -1 for an input whose probabilities are NaN.
        """
        return self.classifier.predict(inputs, **{"integrator": self.integrator} | options)


class _Velocities(eqx.Module):
    """The velocities of a batch, as one vector field."""

    flow: Flow
    embedding: Embedding

    def __call__(self, t: Time, z: Array, features: PyTree) -> Array:
        def velocity(z: Point, features: PyTree) -> Point:
            return self.flow.estimate(t, z, condition_of(self.flow, features, self.embedding)).velocity

        return jax.vmap(velocity)(z, features)
