"""NoProp-DT: a classifier of T independent blocks, one for each step from noise to the label."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._batch import in_buckets
from .._devices import compiled, row_sharding
from .._flow.flow import Flow, Network
from .._flow.noise import check_gaussian
from .._flow.training import sample_times
from .._frozen import trainable
from .._loss.weighting import StepELBOWeighting
from .._path.prediction import AbstractPrediction
from .._path.schedule import AbstractNoiseSchedule, CosineNoiseSchedule
from .._path.vp_path import VPPath
from .._types import Inputs, PRNGKey, Real, Scalar, Time, Weights, check_key, check_number, check_positive, checked
from .block_flow import block_flow
from .block_steps import block_steps
from .categorical import CategoricalPrediction
from .classifier import Classifier
from .draws import over_draws
from .embedding import Embedding
from .label_loss import choose_objective, label_terms, sum_of
from .labelled import check_labels, check_weights
from .local_gradients import local_losses
from .objective import AbstractObjective
from .readout import AbstractReadout, RadialReadout, most_probable
from .stacked import arrays_of, stacked, with_arrays


Encoder = Callable[[Any], PyTree]


class NoPropDT(eqx.Module):
    """Classifies by T blocks that denoise a label in T steps. Each block is trained on its own.

    This is NoProp-DT ([NoProp](https://arxiv.org/abs/2503.24322), algorithm 1). Each block is a denoiser. Block `i`
    takes the input and `z_{i-1}`, the noisy label at time `(i - 1)/T` of a variance-preserving diffusion, and estimates
    the clean label `u_i` (the target, or x0-prediction).

    - **Training**: `z_{i-1}` is made from the true label and noise. So no block waits for another block, and no
      gradient passes from block to block.
    - **Prediction**: the blocks run one after another, from noise `z_0`, by the step below (equation 6). The readout
      decodes the class from the last point, `z_T`.

    The step of block `i`, with coefficients from the noise schedule, is

        z_i = a_i u_i + b_i z_{i-1} + sqrt(c_i) eps

    `loss` trains all blocks in the same step. If each block has its own encoder, `loss` computes the gradient of a
    block directly after its loss and then frees its activations. Training then needs the activation memory of one
    block. Such a loss cannot be differentiated in forward mode.

    To train the blocks one after another, in the order of the paper, train `block(i)`, which is an ordinary
    [`flowprop.Classifier`][], and put it back with `with_block(i, ...)`.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 5)
    networks = [fp.nn.MLP(shape=(3,), condition_size=2, width=16, depth=1, key=key) for key in keys]
    model = fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3))
    inputs, labels = jnp.ones((4, 2)), [0, 2, 1, 0]
    loss = model.loss(inputs, labels, key=keys[0])  # `fp.fit` minimises this
    classes = model.predict(inputs, key=keys[1])
    print(model.num_blocks, loss.shape, classes.shape)  # 5 () (4,)
    ```

    **Arguments:**

    - `networks`: T callables `network(t, z, features)`. They differ only in the values of their arrays. These are
      stacked, so that one matrix product computes a layer of all blocks.
    - `embedding`: the points of the classes, such as [`flowprop.one_hot_embedding`][]`(10)`.
    - `encoder`: one callable on an input that all blocks share, or a sequence of T callables, one for each block (as in
      the paper). It returns the features. Encoders are not stacked, since stacked convolutions are slow. By default the
      features are the input itself.
    - `schedule`: a noise schedule without trainable parameters. By default [`flowprop.CosineNoiseSchedule`][]`()`.
    - `prediction`: what the networks return. By default logits, [`flowprop.CategoricalPrediction`][]`()`.
    - `readout`: the decoding of the last block's output into class probabilities. By default
      [`flowprop.RadialReadout`][]`()`.
    - `objective`: the training loss. By default [`flowprop.CrossEntropyObjective`][]`()` if the networks return logits,
      and [`flowprop.RegressionObjective`][]`()` otherwise. The paper's is [`flowprop.ELBOObjective`][]`(eta=0.1)`. The
      noise is always gaussian and independent of the labels, since the steps of the blocks need that.
    - `stochasticity`: how much noise a step draws, from 0 (none, deterministic) to 1 (the noise of the posterior), as
      in [`flowprop.AncestralIntegrator`][].
    - `keep_activations`: whether to keep the activations of all blocks until the backward pass, as plain automatic
      differentiation does. Set it to differentiate in forward mode, or to measure the memory that it costs.

    **Raises:** `ValueError` if there are no networks, if they differ in more than the values of arrays, if there are
    neither one nor T encoders, if the schedule has parameters, if `stochasticity` is outside [0, 1], or if the
    objective does not suit the other arguments (see [`flowprop.Classifier`][]).
    """

    encoders: tuple[Encoder, ...]
    flow: Flow
    embedding: Embedding
    readout: AbstractReadout
    objective: AbstractObjective
    num_blocks: int = eqx.field(static=True)
    stochasticity: Real
    keep_activations: bool = eqx.field(static=True)

    @checked
    def __init__(
        self,
        networks: Sequence[Network],
        *,
        embedding: Embedding,
        encoder: Encoder | Sequence[Encoder] | None = None,
        schedule: AbstractNoiseSchedule | None = None,
        prediction: AbstractPrediction | None = None,
        readout: AbstractReadout | None = None,
        objective: AbstractObjective | None = None,
        stochasticity: Real = 1.0,
        keep_activations: bool = False,
    ) -> None:
        encoder = eqx.nn.Identity() if encoder is None else encoder
        encoders = tuple(encoder) if isinstance(encoder, Sequence) else (encoder,)
        if isinstance(encoder, Sequence) and len(encoders) != len(networks):
            raise ValueError(
                f"`encoder` has {len(encoders)} callables where `networks` has {len(networks)}: give one for each "
                "block, or a single callable that all blocks share"
            )
        if any(jax.tree.leaves(trainable(schedule))):
            raise ValueError(
                f"`schedule` is {type(schedule).__name__}, which has parameters, and blocks at fixed times train no "
                "schedule: give a fixed one, or a classifier around `fp.ct_flow`"
            )
        check_number(
            "stochasticity",
            stochasticity,
            at_least=0,
            at_most=1,
            remedy="give a number from 0 (no noise) to 1 (the posterior's noise)",
        )
        self.encoders = encoders
        self.flow = Flow(
            stacked(networks),
            VPPath(CosineNoiseSchedule() if schedule is None else schedule),
            CategoricalPrediction() if prediction is None else prediction,
            shape=embedding.matrix.shape[1:],
            weighting=StepELBOWeighting(len(networks)),
        )
        self.embedding = embedding
        self.readout = RadialReadout() if readout is None else readout
        self.objective = choose_objective(objective, self.flow, embedding, self.readout)
        self.num_blocks = len(networks)
        self.stochasticity = stochasticity
        self.keep_activations = keep_activations

    @property
    def times(self) -> Float[np.ndarray, " times"]:
        """The T + 1 times between which the blocks step: equally spaced over the span of the path."""
        return np.linspace(*self.flow.path.span, self.num_blocks + 1, dtype=np.float32)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.embedding.num_classes

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

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss, which [`flowprop.fit`][] minimises: the mean of `block_losses`.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the noise that hides the labels.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a scalar, the mean over the blocks.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        return jnp.mean(self.block_losses(inputs, labels, key=key, weights=weights))

    @checked
    def terms(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> dict[str, Scalar]:
        """The terms of the training loss by name, each averaged over the batch and over the blocks.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the noise that hides the labels.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a dict of scalars, the terms of the objective.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        labels, weights = check_labels(inputs, labels, self.num_classes), check_weights(weights, inputs.shape[0])
        return jax.tree.map(jnp.mean, self._block_terms(jnp.asarray(inputs), jnp.asarray(labels), weights, key))

    @checked
    def block_losses(
        self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None
    ) -> Float[Array, " blocks"]:
        """The training loss of each block, averaged over the batch.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)` from 0 on: an array or a list.
        - `key`: a typed key for the noise that hides the labels.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** the losses, `(T,)`.

        **Raises:** `TypeError` or `ValueError` if the labels are not integers `(n,)`, if there are not as many labels
        or weights as inputs, if a label is out of range, or if a weight is negative or not finite.
        """
        labels, weights = check_labels(inputs, labels, self.num_classes), check_weights(weights, inputs.shape[0])
        check_key("key", key)
        check_gaussian(self.flow, "a block's step")
        inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
        if self.keep_activations or len(self.encoders) < self.num_blocks:
            return jax.vmap(sum_of)(self._block_terms(inputs, labels, weights, key))

        def loss(block: Classifier, inputs: Array, key: PRNGKey) -> Scalar:
            features = jax.vmap(block.encoder)(inputs)
            t = sample_times(block.flow, labels.shape[0], key=key)
            parts = self.objective, block.flow, block.embedding, block.readout
            return sum_of(label_terms(*parts, features, labels, t, weights, key=key))

        blocks = [self.block(index) for index in range(self.num_blocks)]
        return local_losses(loss, blocks, inputs, jax.random.split(key, self.num_blocks))

    def _block_terms(
        self,
        inputs: Array,
        labels: Int[Array, " batch"],
        weights: Float[Array, " batch"] | None,
        key: PRNGKey,
    ) -> dict[str, Float[Array, " blocks"]]:
        """The terms of all blocks, whose stacked networks run as one."""

        def terms(arrays: PyTree, t: Time, features: PyTree, key: PRNGKey) -> dict[str, Scalar]:
            parts = self.objective, with_arrays(self.flow, arrays), self.embedding, self.readout
            return label_terms(*parts, features, labels, jnp.full(labels.shape, t), weights, key=key)

        features = self._features(lambda encoder: jax.vmap(encoder)(inputs))
        keys = jax.random.split(key, self.num_blocks)
        return jax.vmap(terms)(arrays_of(self.flow.network), self.times[:-1], features, keys)

    @checked
    def predict_proba(
        self, inputs: Inputs, *, key: PRNGKey, num_draws: int = 1, batch_size: int | None = None
    ) -> Float[Array, "batch classes"]:
        """Class probabilities: all blocks run from noise, and the readout decodes the output of the last.

        **Arguments:**

        - `inputs`: a batch of what the encoders take. Each encoder is called once for each input.
        - `key`: a typed key for the starting noise and the noise of the steps. The result for an input depends on the
          key and on its position, not on the other inputs.
        - `num_draws`: the number of draws of this noise for each input; the probabilities are their mean.
        - `batch_size`: how many inputs are computed at once, each with its draws. By default as many as give 1024
          draws.

        **Returns:** probabilities `(n, classes)`, from T evaluations of a network for each draw. A row is NaN if its
        input or its features are not finite.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_draws=num_draws, batch_size=batch_size)
        inputs = jnp.asarray(inputs)
        rows = row_sharding(self, inputs)

        def compute(_: int, inputs: Array) -> Array:
            return _predict(self, inputs, key, num_draws, batch_size, rows=rows)

        return in_buckets(compute, inputs.shape[0], (inputs,), rows, self, key)

    @checked
    def predict(
        self, inputs: Inputs, *, key: PRNGKey, num_draws: int = 1, batch_size: int | None = None
    ) -> Int[Array, " batch"]:
        """The most probable class of each input, by `predict_proba`.

        **Arguments:**

        - `inputs`: a batch of what the encoders take. Each encoder is called once for each input.
        - `key`: a typed key for the starting noise and the noise of the steps. The result for an input depends on the
          key and on its position, not on the other inputs.
        - `num_draws`: the number of draws of this noise for each input; the probabilities are their mean.
        - `batch_size`: how many inputs are computed at once, each with its draws. By default as many as give 1024
          draws.

        **Returns:** classes `(n,)`; -1 for an input whose probabilities are NaN.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive. Outside of `jax.jit`, also if the
        probabilities of all inputs are NaN although the inputs are finite.
        """
        probabilities = self.predict_proba(inputs, key=key, num_draws=num_draws, batch_size=batch_size)
        return most_probable(probabilities, inputs)

    @checked
    def block(self, index: int) -> Classifier:
        """One block as a classifier of its own, whose `loss` is the loss of this block.

        **Arguments:**

        - `index`: which block, from 0 to T - 1.

        **Returns:** a [`flowprop.Classifier`][], trained at the time of this block only.

        **Raises:** `IndexError` if there is no such block.
        """
        self._check_block(index)
        return Classifier(
            encoder=self.encoders[self._encoder_of(index)],
            flow=block_flow(self.flow, index, self.times[index]),
            embedding=self.embedding,
            readout=self.readout,
            objective=self.objective,
        )

    @checked
    def with_block(self, index: int, block: Classifier) -> "NoPropDT":
        """A copy of this model with one block replaced, for example by a trained one.

        The parts that all blocks share are taken from the new block too: the embedding, the readout, a shared encoder.

        **Arguments:**

        - `index`: which block, from 0 to T - 1.
        - `block`: the new block, in the form that `block(index)` returns.

        **Returns:** the new model.

        **Raises:** `IndexError` if there is no such block.
        """
        self._check_block(index)
        old, new = arrays_of(self.flow.network), arrays_of(block.flow.network)
        arrays = jax.tree.map(lambda all, one: all.at[index].set(one), old, new)
        place = self._encoder_of(index)
        return eqx.tree_at(
            lambda dt: (dt.encoders[place], dt.flow, dt.embedding, dt.readout),
            self,
            (block.encoder, with_arrays(self.flow, arrays), block.embedding, block.readout),
        )

    def transport(self, features: PyTree, *, key: PRNGKey) -> Float[Array, "*shape"]:
        """Runs all blocks for one example, from noise to the label.

        **Arguments:**

        - `features`: the features of the example, as `encode` returns them.
        - `key`: a typed key for the starting noise and the noise of the steps.

        **Returns:** the output of the last block, in the coordinates of the embedding: a point of its shape.
        """
        check_gaussian(self.flow, "a block's step")
        return block_steps(self.flow, self.embedding, features, self.times, self.stochasticity, key=key)

    def encode(self, example: Array) -> PyTree:
        """The features of one example for all blocks.

        **Arguments:**

        - `example`: one input, without a batch axis.

        **Returns:** what the encoders return; each leaf has a first axis of blocks, `(T, ...)`.
        """
        return self._features(lambda encoder: encoder(example))

    def _features(self, encode: Callable[[Encoder], PyTree]) -> PyTree:
        """The results of `encode` for the encoder of each block, stacked."""
        features = [encode(encoder) for encoder in self.encoders]
        if len(features) == 1:
            # Where the blocks are spread over devices, XLA would compute a stack of copies by parts and exchange them.
            return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.num_blocks, *jnp.shape(leaf))), features[0])
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *features)

    def _encoder_of(self, index: int) -> int:
        return index % len(self.encoders)

    def _check_block(self, index: int) -> None:
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"`index` is {index}: there are blocks 0 to {self.num_blocks - 1}")


@compiled
def _predict(
    model: NoPropDT,
    inputs: Array,
    key: PRNGKey,
    num_draws: int,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> Array:
    matrix = model.embedding.matrix

    def draw(features: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        return jnp.exp(model.readout(model.transport(features, key=key), matrix)), jnp.asarray(True)

    def mean(draws: Array) -> Array:
        return jnp.mean(draws, axis=0)

    return over_draws(model.encode, draw, mean, inputs, key, num_draws, batch_size, rows)
