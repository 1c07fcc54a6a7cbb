"""What NoProp is measured against: the same networks trained through the whole of their inference."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ._batch import example_keys
from ._classifier import Classifier, check_labelled
from ._discrete import NoPropDT
from ._embedding import Embedding
from ._flow import Flow
from ._objective import condition_of
from ._solve import ODEIntegrator, arrive, label_integrator
from ._types import Inputs, Labels, Point, PRNGKey, Scalar, Time, checked


@checked
class BackpropClassifier(eqx.Module):
    """The blocks of NoProp-DT trained by back-propagation through all of them (arXiv:2503.24322, eq. 17-19).

    Its loss is `-log p_out(y | z_T)`, with `z_T` the end of the blocks' own inference from noise, so
    that every gradient crosses the blocks that follow. Inference is that of the blocks.

    **Arguments:**

    - `blocks`: the blocks. Their objective plays no part.
    """

    blocks: NoPropDT

    @checked
    def loss(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> Scalar:
        """The mean cross-entropy at the end of all blocks.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, `(n,)`.
        - `key`: for the noise.

        **Returns:** a scalar.
        """
        blocks = self.blocks
        inputs, labels = check_labelled(inputs, labels, blocks.embedding, key)

        def error(example: Array, label: Array, key: PRNGKey) -> Scalar:
            end = blocks.transport(blocks.encode(example), key=key)
            return -blocks.readout(end, blocks.embedding.matrix)[label]

        return jnp.mean(jax.vmap(error)(inputs, labels, example_keys(key, labels.shape[0])))

    def predict_proba(self, inputs: Inputs, **options: Any) -> Float[Array, "batch classes"]:
        """Class probabilities. Arguments as of [`flowprop.NoPropDT`][]."""
        return self.blocks.predict_proba(inputs, **options)

    def predict(self, inputs: Inputs, **options: Any) -> Int[Array, " batch"]:
        """The most probable classes. Arguments as of [`flowprop.NoPropDT`][]."""
        return self.blocks.predict(inputs, **options)


class AdjointClassifier(eqx.Module):
    """A flow of labels trained as a neural ODE, through its solve (Chen et al. 2018).

    Its loss is `-log p_out(y | z_1)`, with `z_1` the end of the flow from noise. The gradient is by
    the integrator's adjoint: `diffrax.BacksolveAdjoint()` is the adjoint method. A batch is solved as
    one ODE, whose adaptive steps its examples share, so that the adjoint carries the parameters'
    gradient once and not for each example.

    **Arguments:**

    - `classifier`: encoder, flow, embedding and readout. Its objective plays no part.
    - `integrator`: in training and, if no other is given, in use. By default ten steps of Euler.
    """

    classifier: Classifier
    integrator: ODEIntegrator

    @checked
    def __init__(self, classifier: Classifier, integrator: ODEIntegrator | None = None) -> None:
        self.classifier = classifier
        self.integrator = label_integrator() if integrator is None else integrator

    @checked
    def loss(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> Scalar:
        """The mean cross-entropy at the end of the flow.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `labels`: their classes, `(n,)`.
        - `key`: for the starting noise.

        **Returns:** a scalar.
        """
        classifier = self.classifier
        inputs, labels = check_labelled(inputs, labels, classifier.embedding, key)

        flow, embedding = classifier.flow, classifier.embedding
        z0 = jax.vmap(lambda key: flow.draw_noise(key=key))(example_keys(key, labels.shape[0]))
        features = jax.vmap(classifier.encoder)(inputs)
        ends = self.integrator.end_point(_Velocities(flow, embedding), z0, features, *flow.span)

        def error(end: Array, features: PyTree, label: Array) -> Scalar:
            end = arrive(flow, end, condition_of(flow, features, embedding))
            return -classifier.readout(end, embedding.matrix)[label]

        return jnp.mean(jax.vmap(error)(ends, features, labels))

    def predict_proba(self, inputs: Inputs, **options: Any) -> Float[Array, "batch classes"]:
        """Class probabilities. Arguments as of [`flowprop.Classifier`][]; by default the integrator of training."""
        return self.classifier.predict_proba(inputs, **{"integrator": self.integrator} | options)

    def predict(self, inputs: Inputs, **options: Any) -> Int[Array, " batch"]:
        """The most probable classes. Arguments as of `predict_proba`."""
        return self.classifier.predict(inputs, **{"integrator": self.integrator} | options)


class _Velocities(eqx.Module):
    """The velocities of a batch."""

    flow: Flow
    embedding: Embedding

    def __call__(self, t: Time, z: Array, features: PyTree) -> Array:
        def velocity(z: Point, features: PyTree) -> Point:
            return self.flow.estimate(t, z, condition_of(self.flow, features, self.embedding)).velocity

        return jax.vmap(velocity)(z, features)
