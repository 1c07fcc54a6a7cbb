"""What NoProp is compared with: the same networks, trained by gradients through their whole inference."""

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
    """The blocks of NoProp-DT, trained by back-propagation through all of them.

    (Equations 17 to 19 of [NoProp](https://arxiv.org/abs/2503.24322).) The loss is `-log p_out(y | z_T)`, with `z_T`
    the end of the blocks' own inference from noise, so that every gradient crosses the blocks that follow. Inference is
    the blocks' own.

    ```python
    import flowprop as fp
    import jax

    keys = jax.random.split(jax.random.key(0), 3)
    networks = [fp.nn.MLP(shape=(3,), condition_size=2, width=16, depth=1, key=key) for key in keys]
    model = fp.BackpropClassifier(fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3)))
    ```

    **Arguments:**

    - `blocks`: the blocks. Their objective is not used. Networks that take a key, for dropout, are called as in
      prediction: without it.

    **Raises:** `ValueError` if the blocks' readout has no gradient.
    """

    blocks: NoPropDT

    def __check_init__(self) -> None:
        check_gradient(self.blocks.readout, "back-propagation")

    @checked
    def check_data(self, inputs: Inputs, labels: Any) -> None:
        """Check a whole data set before training; `fp.fit` calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `labels`: their classes, `(n,)`.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels as
        inputs, or one is out of range.
        """
        self.blocks.check_data(inputs, labels)

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The mean cross-entropy at the end of all blocks.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for the noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels or
        weights as inputs, a label is out of range, or a weight is negative or not finite.
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
        """Class probabilities, by [`flowprop.NoPropDT.predict_proba`][], whose arguments it takes."""
        return self.blocks.predict_proba(inputs, **options)

    def predict(self, inputs: Inputs, **options: Any) -> Int[Array, " batch"]:
        """The most probable classes, by [`flowprop.NoPropDT.predict`][], whose arguments it takes."""
        return self.blocks.predict(inputs, **options)


class AdjointClassifier(eqx.Module):
    """A flow of labels trained as a neural ODE, through its solve.

    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366).) The loss is `-log p_out(y | z_1)`, with `z_1` the end of the
    flow from a point of its source. The integrator's adjoint computes the gradient: `diffrax.BacksolveAdjoint()` is the
    adjoint method. A batch is solved as one ODE, whose adaptive steps its examples share, so that the adjoint carries
    the parameters' gradient once and not once for each example.

    ```python
    import flowprop as fp
    import jax

    net = fp.nn.MLP(shape=(3,), condition_size=2, key=jax.random.key(0))
    clf = fp.Classifier(flow=fp.fm_flow(net, shape=(3,)), embedding=fp.one_hot_embedding(3))
    model = fp.AdjointClassifier(clf)
    ```

    **Arguments:**

    - `classifier`: encoder, flow, embedding and readout. Its objective and its flow's coupling are not used: no noise
      is paired with a label. A network that takes a key, for dropout, is called as in prediction: without it.
    - `integrator`: for training and, if no other is given, for prediction. By default ten steps of Euler.

    **Raises:** `ValueError` if the classifier's readout has no gradient.
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
        """Check a whole data set before training; `fp.fit` calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `labels`: their classes, `(n,)`.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels as
        inputs, or one is out of range.
        """
        self.classifier.check_data(inputs, labels)

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The mean cross-entropy at the end of the flow.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for the starting noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels or
        weights as inputs, a label is out of range, or a weight is negative or not finite.
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
        """Class probabilities, by [`flowprop.Classifier.predict_proba`][], whose arguments it takes.

        By default with the integrator of training.
        """
        return self.classifier.predict_proba(inputs, **{"integrator": self.integrator} | options)

    def predict(self, inputs: Inputs, **options: Any) -> Int[Array, " batch"]:
        """The most probable classes, by [`flowprop.Classifier.predict`][], whose arguments it takes.

        By default with the integrator of training.
        """
        return self.classifier.predict(inputs, **{"integrator": self.integrator} | options)


class _Velocities(eqx.Module):
    """The velocities of a batch."""

    flow: Flow
    embedding: Embedding

    def __call__(self, t: Time, z: Array, features: PyTree) -> Array:
        def velocity(z: Point, features: PyTree) -> Point:
            return self.flow.estimate(t, z, condition_of(self.flow, features, self.embedding)).velocity

        return jax.vmap(velocity)(z, features)
