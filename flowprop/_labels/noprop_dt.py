"""NoProp-DT: a label's path cut into T steps, with one independent block for each step."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._flow.flow import Flow, Network
from .._frozen import trainable
from .._loss.time_sampling import AbstractTimeSampling
from .._loss.weighting import StepELBOWeighting
from .._path.path import VPPath
from .._path.prediction import AbstractPrediction, CategoricalPrediction
from .._path.schedule import AbstractNoiseSchedule, CosineNoiseSchedule
from .._types import Inputs, PRNGKey, Real, Scalar, Time, Weights, check_key, check_number, check_positive, checked
from .classifier import Classifier
from .draws import over_draws
from .embedding import Embedding
from .label_loss import choose_objective, condition_of, label_terms, sum_of
from .labelled import check_labels, check_weights
from .local_gradients import local_losses
from .objective import AbstractObjective
from .readout import AbstractReadout, RadialReadout, most_probable
from .stacked import arrays_of, stacked


Encoder = Callable[[Any], PyTree]


class BlockTime(AbstractTimeSampling):
    """One time, that of a block's input, as a share of the flow's span."""

    time: float

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jnp.full(num_times, self.time)


class NoPropDT(eqx.Module):
    """Classifies by T blocks, each trained on its own to see the label through its share of noise.

    (NoProp-DT of [NoProp](https://arxiv.org/abs/2503.24322).) Block i reads `z_{i-1}`, the label at time `(i - 1)/T` of
    a variance-preserving path, and the input, and estimates the clean label `u_i`. In training `z_{i-1}` is made from
    the label, so that no block waits for another and no gradient passes from one to another. In prediction the blocks
    follow one another, from noise (eq. 6):

        z_i = a_i u_i + b_i z_{i-1} + sqrt(c_i) eps

    `loss` trains all blocks at once. If each block has its own encoder, a block's gradient is computed
    as soon as its loss is known and its activations are dropped, so that T blocks train in the memory
    of one. Such a loss cannot be differentiated in forward mode.

    To train one block after another, in the paper's order, train `block(i)`, an ordinary
    [`flowprop.Classifier`][], and put it back by `with_block(i, ...)`.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 5)
    networks = [fp.nn.MLP(shape=(3,), condition_size=2, width=16, depth=1, key=key) for key in keys]
    model = fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3))
    loss = model.loss(jnp.ones((4, 2)), [0, 2, 1, 0], key=keys[0])  # what `fp.fit` minimises
    classes = model.predict(jnp.ones((4, 2)), key=keys[1])  # (4,)
    ```

    **Arguments:**

    - `networks`: T callables `network(t, z, features)` that differ in their parameters alone. The parameters are
      stacked, so that one product serves all blocks.
    - `embedding`: the points of the classes.
    - `encoder`: one callable that all blocks share, or a sequence of T, one for each (as in the paper).
      Encoders are not stacked, since stacked convolutions are slow. By default the input itself.
    - `schedule`: a noise schedule without parameters to train. By default [`flowprop.CosineNoiseSchedule`][]`()`.
    - `prediction`: by default [`flowprop.CategoricalPrediction`][]`()`: the networks return logits.
    - `readout`: how a class is read off the last block's end. By default [`flowprop.RadialReadout`][]`()`.
    - `objective`: what is minimised, as for [`flowprop.Classifier`][]; [`flowprop.ELBOObjective`][]`(eta=0.1)` is the
      paper's. The noise is gaussian and independent of the labels, as the blocks' steps need.
    - `stochasticity`: how much noise a step draws: 1 for the posterior's own, 0 for none
      ([`flowprop.AncestralIntegrator`][]).
    - `keep_activations`: whether to keep all blocks' activations until the gradient, as automatic differentiation does:
      for forward mode, or to measure what it costs.

    **Raises:** `ValueError` for no networks, networks that differ, another number of encoders, a schedule with
    parameters, or a `stochasticity` outside of [0, 1].
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
                "block, or a single callable for all"
            )
        if any(jax.tree.leaves(trainable(schedule))):
            raise ValueError(
                f"`schedule` is {type(schedule).__name__}, which has parameters: blocks stand at fixed times, and "
                "train no schedule; `fp.ct_flow` does"
            )
        check_number(
            "stochasticity",
            stochasticity,
            at_least=0,
            at_most=1,
            remedy="give a number from 0 (no noise) to 1 (the posterior's)",
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
        """The T + 1 times between which the blocks step: equal steps over the path's span."""
        return np.linspace(*self.flow.path.span, self.num_blocks + 1, dtype=np.float32)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.embedding.num_classes

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

    @checked
    def loss(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss of all blocks, the mean of `block_losses`.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for the noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** a scalar.

        **Raises:** as `terms`.
        """
        return jnp.mean(self.block_losses(inputs, labels, key=key, weights=weights))

    @checked
    def terms(self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None) -> dict[str, Scalar]:
        """The terms of the loss by name, each its mean over the batch and over the blocks.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for the noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** the objective's terms, scalars.

        **Raises:** `TypeError` or `ValueError` if the labels are no integers `(n,)`, there are not as many labels or
        weights as inputs, a label is out of range, or a weight is negative or not finite.
        """
        labels, weights = check_labels(inputs, labels, self.num_classes), check_weights(weights, inputs.shape[0])
        return jax.tree.map(jnp.mean, self._block_terms(jnp.asarray(inputs), jnp.asarray(labels), weights, key))

    @checked
    def block_losses(
        self, inputs: Inputs, labels: Any, *, key: PRNGKey, weights: Weights | None = None
    ) -> Float[Array, " blocks"]:
        """The loss of each block.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, integers `(n,)`: an array or a list.
        - `key`: a typed key for the noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** the losses, `(T,)`.

        **Raises:** as `terms`.
        """
        labels, weights = check_labels(inputs, labels, self.num_classes), check_weights(weights, inputs.shape[0])
        check_key("key", key)
        self.flow.check_gaussian("a block's step")
        inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
        if self.keep_activations or len(self.encoders) < self.num_blocks:
            return jax.vmap(sum_of)(self._block_terms(inputs, labels, weights, key))

        def loss(block: Classifier, inputs: Array, key: PRNGKey) -> Scalar:
            features = jax.vmap(block.encoder)(inputs)
            t = block.flow.sample_times(labels.shape[0], key=key)
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
        """The terms of all blocks side by side, their networks as one."""

        def terms(arrays: PyTree, t: Time, features: PyTree, key: PRNGKey) -> dict[str, Scalar]:
            parts = self.objective, self._with_network(arrays), self.embedding, self.readout
            return label_terms(*parts, features, labels, jnp.full(labels.shape, t), weights, key=key)

        features = self._features(lambda encoder: jax.vmap(encoder)(inputs))
        return jax.vmap(terms)(self._arrays, self.times[:-1], features, jax.random.split(key, self.num_blocks))

    @checked
    def predict_proba(
        self, inputs: Inputs, *, key: PRNGKey, num_draws: int = 1, batch_size: int | None = None
    ) -> Float[Array, "batch classes"]:
        """Class probabilities, read off the last block's end. Each encoder is called once for an input.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `key`: a typed key for the starting noise and the steps; an input's result does not depend on its batch.
        - `num_draws`: how many draws of that noise for each input; the probabilities are their mean.
        - `batch_size`: how many inputs are computed at once, each with its draws. By default as many as make 1024
          draws.

        **Returns:** probabilities `(n, classes)`, by T evaluations of a network each; NaN in the row of an input
        that is not finite, or whose features are not.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_draws=num_draws, batch_size=batch_size)
        return _predict(self, jnp.asarray(inputs), key, num_draws, batch_size)

    @checked
    def predict(
        self, inputs: Inputs, *, key: PRNGKey, num_draws: int = 1, batch_size: int | None = None
    ) -> Int[Array, " batch"]:
        """The most probable classes.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `key`: a typed key for the starting noise and the steps; an input's result does not depend on its batch.
        - `num_draws`: how many draws of that noise for each input.
        - `batch_size`: how many inputs are computed at once, each with its draws. By default as many as make 1024
          draws.

        **Returns:** classes `(n,)`; -1 for an input whose probabilities are NaN.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive, or, outside of `jax.jit`, if the
        probabilities of all inputs are NaN although the inputs are finite.
        """
        probabilities = self.predict_proba(inputs, key=key, num_draws=num_draws, batch_size=batch_size)
        return most_probable(probabilities, inputs)

    @checked
    def block(self, index: int) -> Classifier:
        """Block `index`, from 0, as a classifier of its own: its `loss` is that block's.

        **Raises:** `IndexError` for a block that there is not.
        """
        self._check_block(index)
        flow = self._with_network(jax.tree.map(lambda array: array[index], self._arrays))
        start, end = flow.span
        time = BlockTime(float(self.times[index] - start) / (end - start))
        flow = eqx.tree_at(lambda flow: flow.time_sampling, flow, time)
        return Classifier(
            encoder=self.encoders[self._encoder_of(index)],
            flow=flow,
            embedding=self.embedding,
            readout=self.readout,
            objective=self.objective,
        )

    @checked
    def with_block(self, index: int, block: Classifier) -> "NoPropDT":
        """These blocks with `block`, trained perhaps, in place of the one at `index`.

        What all blocks share is taken from it too: the embedding, the readout, a shared encoder.

        **Raises:** `IndexError` for a block that there is not.
        """
        self._check_block(index)
        arrays = jax.tree.map(lambda all, one: all.at[index].set(one), self._arrays, arrays_of(block.flow.network))
        place = self._encoder_of(index)
        return eqx.tree_at(
            lambda dt: (dt.encoders[place], dt.flow, dt.embedding, dt.readout),
            self,
            (block.encoder, self._with_network(arrays), block.embedding, block.readout),
        )

    def transport(self, features: PyTree, *, key: PRNGKey) -> Float[Array, "*shape"]:
        """One example's label from noise through all blocks, in data coordinates.

        **Arguments:**

        - `features`: of the example, by `encode`.
        - `key`: for the starting noise and the steps.
        """
        self.flow.check_gaussian("a block's step")
        key_start, key_steps = jax.random.split(key)
        path, dtype = self.flow.path, self.embedding.matrix.dtype

        def step(z: Array, block: PyTree) -> tuple[Array, None]:
            arrays, features, start, end, key = block
            flow = self._with_network(arrays)
            target = flow.estimate(start, z, condition_of(flow, features, self.embedding)).target
            a, b, noise_std = path.posterior(start, end, self.stochasticity)
            return a * target + b * z + noise_std * jax.random.normal(key, z.shape, z.dtype), None

        keys = jax.random.split(key_steps, self.num_blocks)
        blocks = (self._arrays, features, self.times[:-1], self.times[1:], keys)
        z, _ = jax.lax.scan(step, self.flow.draw_noise(key=key_start).astype(dtype), blocks)
        return z / path.alpha(path.span[1])

    def encode(self, example: Array) -> PyTree:
        """One example's features, each leaf with a first axis of blocks."""
        return self._features(lambda encoder: encoder(example))

    def _features(self, encode: Callable[[Encoder], PyTree]) -> PyTree:
        """What each block's encoder gives, stacked. Not the encoders: stacked convolutions are slow."""
        features = [encode(encoder) for encoder in self.encoders]
        shared = self.num_blocks // len(features)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves * shared), *features)

    @property
    def _arrays(self) -> PyTree:
        return arrays_of(self.flow.network)

    def _with_network(self, arrays: PyTree) -> Flow:
        """The flow whose network has these arrays, a block's or all."""
        network = eqx.combine(arrays, self.flow.network)
        return eqx.tree_at(lambda flow: flow.network, self.flow, network)

    def _encoder_of(self, index: int) -> int:
        return index % len(self.encoders)

    def _check_block(self, index: int) -> None:
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"`index` is {index}: there are blocks 0 to {self.num_blocks - 1}")


@eqx.filter_jit
def _predict(model: NoPropDT, inputs: Array, key: PRNGKey, num_draws: int, batch_size: int | None) -> Array:
    matrix = model.embedding.matrix

    def draw(features: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        return jnp.exp(model.readout(model.transport(features, key=key), matrix)), jnp.asarray(True)

    def mean(draws: Array) -> Array:
        return jnp.mean(draws, axis=0)

    return over_draws(model.encode, draw, mean, inputs, key, num_draws, batch_size)
