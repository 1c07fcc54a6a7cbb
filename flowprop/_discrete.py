"""NoProp-DT: a label's path cut into T steps, a block of its own for each, none of which hears of another."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ._batch import example_keys, in_batches
from ._classifier import Classifier, check_labelled, sum_of
from ._embedding import Embedding
from ._flow import Flow, Network
from ._frozen import trainable
from ._local import local_losses
from ._objective import AbstractObjective, choose_objective, condition_of, label_terms
from ._path import VPPath
from ._prediction import AbstractPrediction, CategoricalPrediction
from ._readout import AbstractReadout, RadialReadout
from ._schedule import AbstractNoiseSchedule, CosineNoiseSchedule
from ._time_sampling import AbstractTimeSampling
from ._types import Inputs, Labels, PRNGKey, Real, Scalar, Time, check_key, check_positive, checked
from ._weighting import StepELBOWeighting


Encoder = Callable[[Any], PyTree]


class BlockTime(AbstractTimeSampling):
    """One time, that of a block's input, as a share of the flow's span."""

    time: float

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jnp.full(num_times, self.time)


class NoPropDT(eqx.Module):
    """Classifies by T blocks, each trained on its own to see the label through its share of noise (arXiv:2503.24322).

    Block i reads `z_{i-1}`, the label at time `(i - 1)/T` of a variance-preserving path, and the input,
    and estimates the clean label `u_i`. In training `z_{i-1}` is made from the label, so that no block
    waits for another, and no gradient crosses from one to another. In use, blocks follow one another
    (eq. 6), from noise:

        z_i = a_i u_i + b_i z_{i-1} + sqrt(c_i) eps

    `loss` trains all blocks at once. Where each has an encoder of its own, a block's gradient is taken
    as soon as its loss is known and its activations are dropped, so that T blocks train in the memory
    of one; such a loss cannot be differentiated in forward mode.

    To train one block after another, in the paper's order, train `block(i)`, an ordinary
    [`flowprop.Classifier`][], and put it back by `with_block(i, ...)`.

    **Arguments:**

    - `networks`: T callables `network(t, z, features)`, alike but for their parameters, which are
      stacked: one product does for all.
    - `embedding`: of the classes.
    - `encoder`: one callable that all blocks share, or a sequence of T, one for each (as the paper
      has it). These are not stacked, since stacked convolutions are slow. By default the input itself.
    - `schedule`: without parameters to train. By default [`flowprop.CosineNoiseSchedule`][]`()`.
    - `prediction`: by default [`flowprop.CategoricalPrediction`][]`()`: the networks return logits.
    - `readout`: by default [`flowprop.RadialReadout`][]`()`.
    - `objective`: as of [`flowprop.Classifier`][]; [`flowprop.ELBOObjective`][]`(eta=0.1)` is the paper's.
    - `stochasticity`: of the steps, 1 for the posterior's own noise, 0 for none
      ([`flowprop.AncestralIntegrator`][]).
    - `keep_activations`: of all blocks until the gradient, as automatic differentiation does, instead: for
      forward mode, or to see what it costs.

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
        if not 0 <= stochasticity <= 1:
            raise ValueError(
                f"`stochasticity` is {stochasticity}: give a number from 0 (no noise) to 1 (the posterior's)"
            )
        self.encoders = encoders
        self.flow = Flow(
            _stack(networks),
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
        """The T + 1 times between which the blocks step."""
        return np.linspace(0.0, 1.0, self.num_blocks + 1, dtype=np.float32)

    @checked
    def loss(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> Scalar:
        """The training loss of all blocks, the mean of `block_losses`. Arguments as of `terms`."""
        return jnp.mean(self.block_losses(inputs, labels, key=key))

    @checked
    def terms(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> dict[str, Scalar]:
        """The terms of the loss by name, each its mean over the batch and over the blocks.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `labels`: their classes, `(n,)`.
        - `key`: for the noise.

        **Returns:** the objective's terms, scalars.

        **Raises:** `ValueError` if there are not as many labels as inputs, or one is out of range.
        """
        inputs, labels = check_labelled(inputs, labels, self.embedding, key)
        return jax.tree.map(jnp.mean, self._block_terms(inputs, labels, key))

    @checked
    def block_losses(self, inputs: Inputs, labels: Labels, *, key: PRNGKey) -> Float[Array, " blocks"]:
        """The loss of each block, `(T,)`, of which `loss` is the mean. Arguments as of `terms`."""
        inputs, labels = check_labelled(inputs, labels, self.embedding, key)
        if self.keep_activations or len(self.encoders) < self.num_blocks:
            return jax.vmap(sum_of)(self._block_terms(inputs, labels, key))

        def loss(block: Classifier, inputs: Array, key: PRNGKey) -> Scalar:
            features = jax.vmap(block.encoder)(inputs)
            t = block.flow.sample_times(labels.shape[0], key=key)
            return sum_of(
                label_terms(self.objective, block.flow, block.embedding, block.readout, features, labels, t, key=key)
            )

        blocks = [self.block(index) for index in range(self.num_blocks)]
        return local_losses(loss, blocks, inputs, jax.random.split(key, self.num_blocks))

    def _block_terms(self, inputs: Array, labels: Array, key: PRNGKey) -> dict[str, Float[Array, " blocks"]]:
        """Of all blocks side by side, their networks as one."""

        def terms(arrays: PyTree, t: Time, features: PyTree, key: PRNGKey) -> dict[str, Scalar]:
            flow, times = self._with_network(arrays), jnp.full(labels.shape, t)
            return label_terms(self.objective, flow, self.embedding, self.readout, features, labels, times, key=key)

        features = self._features(lambda encoder: jax.vmap(encoder)(inputs))
        return jax.vmap(terms)(self._arrays, self.times[:-1], features, jax.random.split(key, self.num_blocks))

    @checked
    def predict_proba(
        self, inputs: Inputs, *, key: PRNGKey, num_draws: int = 1, batch_size: int = 500
    ) -> Float[Array, "batch classes"]:
        """Class probabilities, read off the last block's end, `(n, classes)`. Each encoder is called once an input.

        **Arguments:**

        - `inputs`: a batch of what the encoders take.
        - `key`: for the starting noise and the steps; an input's result does not depend on its batch.
        - `num_draws`: of that noise for each input, over which the probabilities are averaged.
        - `batch_size`: how many inputs are in memory at once.

        **Returns:** probabilities `(n, classes)`, by T evaluations of a network each.

        **Raises:** `ValueError` if `num_draws` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_draws=num_draws, batch_size=batch_size)
        return _predict(self, jnp.asarray(inputs), key, num_draws, batch_size)

    @checked
    def predict(
        self, inputs: Inputs, *, key: PRNGKey, num_draws: int = 1, batch_size: int = 500
    ) -> Int[Array, " batch"]:
        """The most probable classes, `(n,)`. Arguments as of `predict_proba`."""
        return jnp.argmax(self.predict_proba(inputs, key=key, num_draws=num_draws, batch_size=batch_size), axis=-1)

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
        arrays = jax.tree.map(lambda all, one: all.at[index].set(one), self._arrays, _arrays(block.flow.network))
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
        key_start, key_steps = jax.random.split(key)
        path = self.flow.path

        def step(z: Array, block: PyTree) -> tuple[Array, None]:
            arrays, features, start, end, key = block
            flow = self._with_network(arrays)
            target = flow.estimate(start, z, condition_of(flow, features, self.embedding)).target
            a, b, noise_std = path.posterior(start, end, self.stochasticity)
            return a * target + b * z + noise_std * jax.random.normal(key, z.shape, z.dtype), None

        keys = jax.random.split(key_steps, self.num_blocks)
        blocks = (self._arrays, features, self.times[:-1], self.times[1:], keys)
        z, _ = jax.lax.scan(step, self.flow.draw_noise(key=key_start), blocks)
        return z / path.alpha(1.0)

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
        return _arrays(self.flow.network)

    def _with_network(self, arrays: PyTree) -> Flow:
        """The flow whose network has these arrays, a block's or all."""
        network = eqx.combine(arrays, self.flow.network)
        return eqx.tree_at(lambda flow: flow.network, self.flow, network)

    def _encoder_of(self, index: int) -> int:
        return index % len(self.encoders)

    def _check_block(self, index: int) -> None:
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"`index` is {index}: there are blocks 0 to {self.num_blocks - 1}")


def _arrays(network: Network) -> PyTree:
    return eqx.filter(network, eqx.is_array)


def _stack(networks: Sequence[Network]) -> Network:
    """One network whose every array holds those of all, along a new first axis."""
    if not networks:
        raise ValueError("`networks` is empty: give one network for each block")
    arrays, rest = zip(*(eqx.partition(network, eqx.is_array) for network in networks), strict=True)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in arrays]
    for index in range(1, len(networks)):
        if not eqx.tree_equal(rest[0], rest[index]) or shapes[0] != shapes[index]:
            raise ValueError(
                f"`networks` differ: block {index} is not like block 0 but for its parameters, as blocks that are "
                "stacked must be; make them by one constructor, with a key each"
            )
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])


@eqx.filter_jit
def _predict(model: NoPropDT, inputs: Array, key: PRNGKey, num_draws: int, batch_size: int) -> Array:
    matrix = model.embedding.matrix

    def one(example: Array, key: PRNGKey) -> Array:
        features = model.encode(example)

        def draw(key: PRNGKey) -> Array:
            return jnp.exp(model.readout(model.transport(features, key=key), matrix))

        return jnp.mean(jax.vmap(draw)(example_keys(key, num_draws)), axis=0)

    return in_batches(one, (inputs, example_keys(key, inputs.shape[0])), batch_size)
