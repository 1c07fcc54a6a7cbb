"""Training: batches drawn on the device, an optimiser from Optax, a running average of parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree
from tqdm.auto import tqdm

from ._frozen import trainable
from ._types import PRNGKey, Real, check_key, checked


@runtime_checkable
class Trainable(Protocol):
    """Anything with `loss(*batch, key=key)`, a scalar."""

    @property
    def loss(self) -> Callable[..., Array]: ...


Model = TypeVar("Model", bound=Trainable)
Augment = Callable[..., Array]
History = dict[str, np.ndarray]


class TrainState(NamedTuple):
    """All that a training step changes."""

    parameters: PyTree
    optimiser: PyTree
    average: PyTree
    order: Int[Array, " examples"]
    step: Int[Array, ""]


class Trainer:
    """The compiled training steps of one model: what [`flowprop.fit`][] repeats.

    The state lives on the device as a flat list of arrays and is donated from call to call;
    flattening a model anew at each step costs more than a small network's gradient.
    """

    def __init__(
        self,
        model: PyTree,
        data: tuple[Array, ...],
        optimiser: optax.GradientTransformation,
        *,
        batch_size: int,
        key: PRNGKey,
        ema: Real | None,
        augment: Augment | None,
        steps_per_call: int | None,
    ) -> None:
        parameters, self._rest = eqx.partition(model, trainable(model))
        if not jax.tree.leaves(parameters):
            raise ValueError("`model` has nothing to train: its floating-point arrays are all frozen, or it has none")
        fixed, static = eqx.partition(self._rest, eqx.is_array)
        optimiser = optax.with_extra_args_support(optimiser)
        num_examples = data[0].shape[0]
        steps_per_epoch = num_examples // batch_size

        def loss(parameters: PyTree, fixed: PyTree, batch: list[Array], key: PRNGKey) -> Float[Array, ""]:
            return eqx.combine(parameters, fixed, static).loss(*batch, key=key)

        def step(state: TrainState, constants: PyTree) -> tuple[TrainState, Float[Array, ""]]:
            fixed, data, key = constants
            key_order, key_loss, key_augment = jax.random.split(jax.random.fold_in(key, state.step), 3)
            place = state.step % steps_per_epoch
            order = jax.lax.cond(
                place == 0,
                lambda order: jax.random.permutation(key_order, num_examples),
                lambda order: order,
                state.order,
            )
            rows = jax.lax.dynamic_slice(order, (place * batch_size,), (batch_size,))
            batch = [array[rows] for array in data]
            if augment is not None:
                keys = jax.random.split(key_augment, batch_size)
                batch[0] = jax.vmap(lambda example, key: augment(example, key=key))(batch[0], keys)
            value, gradient = jax.value_and_grad(loss)(state.parameters, fixed, batch, key_loss)
            updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.parameters, value=value)
            new = optax.apply_updates(state.parameters, updates)
            average = state.average
            if ema is not None:
                # The early average forgets at the rate at which it is formed.
                decay = jnp.minimum(ema, state.step / (state.step + 10.0))
                average = jax.tree.map(lambda a, p: (p + decay * (a - p)).astype(p.dtype), average, new)
            return TrainState(new, optimiser_state, average, order, state.step + 1), value

        def call(leaves: list[Array], constants: PyTree, count: Int[Array, ""]) -> tuple[list[Array], Array]:
            def body(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
                state, losses = carry
                state, value = step(state, constants)
                return state, losses.at[i].set(value.astype(losses.dtype))

            state = jax.tree.unflatten(self._structure, leaves)
            if self.steps_per_call == 1:
                state, value = step(state, constants)
                return jax.tree.leaves(state), value[None]
            state, losses = jax.lax.fori_loop(0, count, body, (state, jnp.zeros(self.steps_per_call)))
            return jax.tree.leaves(state), losses

        state = TrainState(
            parameters,
            optimiser.init(parameters),
            () if ema is None else parameters,
            jnp.arange(num_examples),
            jnp.zeros((), int),
        )
        leaves, self._structure = jax.tree.flatten(state)
        # Copies, for what is donated is gone: the caller's model, which an optimiser may keep too, must not be.
        self._leaves = [jnp.copy(leaf) for leaf in leaves]
        self._constants = (fixed, data, key)
        self._call = jax.jit(call, donate_argnums=0)
        if steps_per_call is None:
            batch = [jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype) for array in data]
            steps_per_call = 1 if _slow_in_loops(loss, parameters, fixed, batch, key) else 50
        self.steps_per_call = steps_per_call

    def __call__(self, count: int) -> Float[Array, " steps_per_call"]:
        """Take `count` steps, at most `steps_per_call`; the first `count` values are their losses."""
        self._leaves, losses = self._call(self._leaves, self._constants, count)
        return losses

    @property
    def model(self) -> Any:
        """The model as it stands, with the averaged parameters if there are any."""
        state = jax.tree.unflatten(self._structure, self._leaves)
        parameters = state.average if jax.tree.leaves(state.average) else state.parameters
        return eqx.combine(jax.tree.map(jnp.copy, parameters), self._rest)


def _slow_in_loops(function: Callable[..., Array], *arguments: PyTree) -> bool:
    """Whether XLA would run the gradient many times slower in a loop: convolutions, on a CPU."""
    if jax.default_backend() != "cpu":
        return False
    return "conv_general_dilated" in str(jax.make_jaxpr(function)(*arguments))


@checked
def fit(
    model: Model,
    data: tuple[ArrayLike, ...],
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    key: PRNGKey,
    ema: Real | None = None,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    augment: Augment | None = None,
    steps_per_call: int | None = None,
    progress: bool = True,
) -> tuple[Model, History]:
    """Train any model with `loss(*batch, key=key)`: a flow, a classifier, one of your own.

    The data go to the device once. Each epoch sees them in a new random order, in whole batches;
    what does not fill one waits for another epoch. What is wrapped in [`flowprop.Frozen`][] stays
    as it is.

    **Arguments:**

    - `model`: the model. It is not changed.
    - `data`: arrays that share their first axis; a batch is the same rows of each.
    - `optimiser`: any Optax transformation, given the whole tree of trained parameters.
    - `steps`: how many.
    - `batch_size`: at most the number of examples.
    - `key`: for the order of the data and the model's own draws. The same key gives the same result.
    - `ema`: the decay of an exponential moving average of the parameters (0.999, say), which then
      are those of the model returned. It starts short, free of the initial values.
    - `evaluate`: called on the (averaged) model every `evaluate_every` steps and at the end;
      what it returns goes into the history.
    - `evaluate_every`: by default the end only.
    - `augment`: a callable `augment(example, key=key)` that returns a changed example of the same shape and type,
      such as [`flowprop.data.RandomCrop`][]`(4)`; applied to the first array of each training batch.
    - `steps_per_call`: how many steps run in one call of the device. By default 1 for networks that
      convolve on a CPU, where XLA slows their gradients inside of a loop, and else 50.
    - `progress`: whether to draw a progress bar.

    **Returns:** the trained model, and its history: arrays `step` (from 1) and `loss` for every
    step, and for each evaluation `evaluation_step` and what `evaluate` named.

    **Raises:** `ValueError` for data, sizes or a decay that do not fit; `FloatingPointError` when a
    loss is not finite.
    """
    arrays = _check(data, steps, batch_size, key, ema, evaluate_every, steps_per_call)
    train = Trainer(
        model,
        arrays,
        optimiser,
        batch_size=batch_size,
        key=key,
        ema=ema,
        augment=augment,
        steps_per_call=steps_per_call,
    )
    evaluate_every = steps if evaluate_every is None else evaluate_every
    losses: list[np.ndarray] = []
    evaluations: list[dict[str, float]] = []
    with tqdm(total=steps, unit="step", disable=not progress) as bar:

        def wait_for(values: Array, first: int, count: int) -> None:
            losses.append(_finite(np.asarray(values)[:count], first))
            bar.set_postfix(loss=f"{losses[-1][-1]:.4g}", refresh=False)
            bar.update(count)

        done, under_way = 0, []
        while done < steps:
            stop = min(steps, done + evaluate_every - done % evaluate_every) if evaluate else steps
            count = min(train.steps_per_call, stop - done)
            under_way.append((train(count), done + 1, count))
            done += count
            # While this waits for a call the device has the next, and never more of them.
            while len(under_way) > (done < stop):
                wait_for(*under_way.pop(0))
            if evaluate and done == stop:
                evaluations.append({"evaluation_step": done, **_named(evaluate(train.model))})
    history = {"step": np.arange(1, steps + 1), "loss": np.concatenate(losses)}
    for name in evaluations[0] if evaluations else ():
        history[name] = np.asarray([values[name] for values in evaluations])
    return train.model, history


def _named(values: Mapping[str, float]) -> Mapping[str, float]:
    if taken := {"step", "loss", "evaluation_step"} & values.keys():
        raise ValueError(f"`evaluate` returned {sorted(taken)}, which the history has already: choose another name")
    return values


def _finite(losses: np.ndarray, first: int) -> np.ndarray:
    """Losses from step `first` on, if all are finite."""
    for index in np.flatnonzero(~np.isfinite(losses)):
        raise FloatingPointError(
            f"the loss is {losses[index]} at step {first + index}: lower the learning rate, clip the gradient "
            "(`optax.clip_by_global_norm`), or look for a label or a value out of range in `data`"
        )
    return losses


def _check(
    data: tuple[ArrayLike, ...],
    steps: int,
    batch_size: int,
    key: PRNGKey,
    ema: Real | None,
    evaluate_every: int | None,
    steps_per_call: int | None,
) -> tuple[Array, ...]:
    check_key("key", key)
    arrays = tuple(jnp.asarray(array) for array in data)
    sizes = [array.shape[0] if array.ndim else 0 for array in arrays]
    if not arrays or len(set(sizes)) > 1 or min(sizes) == 0:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"`data` has arrays of shapes [{shapes}]: they must share a first axis of examples")
    if not 0 < batch_size <= sizes[0]:
        raise ValueError(f"`batch_size` is {batch_size} where `data` has {sizes[0]} examples: give at most as many")
    counts = {"steps": steps, "evaluate_every": evaluate_every, "steps_per_call": steps_per_call}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"`{name}` is {count}: give a positive number")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"`ema` is {ema}: the decay lies between 0 and 1, 0.999 for instance")
    return arrays
