"""Many training steps in one call of the device."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .._types import PRNGKey
from .devices import Layout
from .loss import evaluate_loss
from .optimiser import skips_bad_steps, trained
from .step import Constants, Rule, TrainState, all_finite, at_least_32_bits, step_keys, take_step
from .trainer import Trainer, compiled


#: The batches that one call is given take at most this much memory.
STREAMED_BYTES = 64 * 2**20


class Program(NamedTuple):
    """The parts of a loop that are not arrays. Equal programs share their compiled code."""

    rule: Rule
    batch_size: int
    steps_per_call: int
    #: The scalars that a step reports: names and types.
    reports: tuple[tuple[str, Any], ...]
    layout: Layout


class Carry(NamedTuple):
    """What a call takes and returns."""

    state: TrainState
    #: The order of the examples in this epoch, or `None` if batches are streamed.
    order: Array | None


class Source(NamedTuple):
    """Examples, with their weights if there are any."""

    data: tuple[PyTree, ...]
    weights: Array | np.ndarray | None = None
    #: The rows to train on, if these are not all.
    rows: Array | np.ndarray | None = None


class Reports(NamedTuple):
    """What the steps of one call report: an array each, one value for each step."""

    values: dict[str, Array]
    #: Whether each step was sound: its loss is finite or, if the optimiser skips bad steps, its parameters are.
    sound: Bool[Array, " steps"]
    #: Whether the parameters are finite after the last step.
    finite: Bool[Array, ""]


class Loop:
    """Repeats the steps of a trainer: a call takes a state through many steps.

    **Arguments:**

    - `trainer`: the steps.
    - `example`: the shapes and types of one example: a tuple of PyTrees of `jax.ShapeDtypeStruct`, and that of its
      weight or `None`.
    - `batch_size`: the number of examples in a batch.
    - `steps_per_call`: the number of steps in one call, or `None` to choose it by the network and the device.
    - `streamed`: whether a call is given its batches, one for each step, rather than all data.
    - `layout`: the devices.
    - `key`: the random key of the training.
    """

    def __init__(
        self,
        trainer: Trainer,
        example: Source,
        *,
        batch_size: int,
        steps_per_call: int | None,
        streamed: bool,
        layout: Layout,
        key: PRNGKey,
    ) -> None:
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape), a.dtype), example)
        fixed = trainer.constants.fixed

        def loss(parameters: PyTree, fixed: PyTree, batch: Source) -> tuple:
            model = trainer.assemble((parameters, fixed))
            return evaluate_loss(model, batch.data, batch.weights, key=key)

        jaxpr, (value, metrics, new_fixed) = jax.make_jaxpr(loss, return_shape=True)(trainer.parameters, fixed, batch)
        if steps_per_call is None:
            slow = jax.default_backend() == "cpu" and has_convolutions(jaxpr.jaxpr)
            steps_per_call = 1 if slow else 50
        if streamed:
            # A call holds all of its batches, and the next call's are read meanwhile.
            size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
            steps_per_call = max(1, min(steps_per_call, STREAMED_BYTES // size))
        self.steps_per_call = steps_per_call
        self.metrics = tuple(metrics)
        self._trainer, self._key = trainer, key
        self._constants = layout.place(trainer.constants)
        self._new_fixed = new_fixed is not None
        reports = {"loss": at_least_32_bits(value.dtype)} | {name: metric.dtype for name, metric in metrics.items()}
        self._call: Callable[..., tuple[Carry, Reports]] | None = None
        self._program = Program(trainer.rule, batch_size, steps_per_call, tuple(reports.items()), layout)

    def init(self) -> TrainState:
        """The state before the first step, on its devices."""
        state = self._trainer.init(key=self._key)
        fixed = jax.tree.map(jnp.copy, self._trainer.constants.fixed) if self._new_fixed else None
        return self._program.layout.place(state._replace(fixed=fixed))

    def __call__(self, carry: Carry, source: Source, count: int) -> tuple[Carry, Reports]:
        """Run `count` steps, at most `steps_per_call`. The first `count` values of each report belong to them.

        The carry that is given stays valid: a run returns to it if a loss is not finite.
        """
        constants = self._constants
        if carry.state.fixed is not None:
            constants = constants._replace(fixed=None)
        if self._call is None:
            program = self._program._replace(layout=self._program.layout.of(carry.state))
            self._call = compiled(_run, program)
        return self._call(carry, constants, source, count)


def _run(program: Program, carry: Carry, constants: Constants, source: Source, count: Array) -> tuple[Carry, Reports]:
    def step(i: Any, carry: Carry) -> tuple[Carry, dict[str, Array], Bool[Array, ""]]:
        batch, order = _batch(program, i, carry, source)
        batch = program.layout.shard(batch)
        state, reports = take_step(program.rule, carry.state, constants, batch.data, batch.weights)
        sound = jnp.isfinite(reports["loss"])
        if skips_bad_steps(state.optimiser):
            sound |= all_finite(trained(state.parameters))
        return Carry(program.layout.like(state), order), reports, sound

    def body(i: Array, loop: tuple[Carry, dict[str, Array], Array]) -> tuple[Carry, dict[str, Array], Array]:
        carry, values, all_sound = loop
        carry, reports, sound = step(i, carry)
        values = {name: array.at[i].set(reports[name].astype(array.dtype)) for name, array in values.items()}
        return carry, values, all_sound.at[i].set(sound)

    size = program.steps_per_call
    if size == 1:
        carry, reports, sound = step(0, carry)
        values, sound = {name: reports[name].astype(dtype)[None] for name, dtype in program.reports}, sound[None]
    else:
        values = {name: jnp.zeros(size, dtype) for name, dtype in program.reports}
        carry, values, sound = jax.lax.fori_loop(0, count, body, (carry, values, jnp.ones(size, bool)))
    return carry, Reports(values, sound, all_finite(trained(carry.state.parameters)))


def _batch(program: Program, i: Any, carry: Carry, source: Source) -> tuple[Source, Array | None]:
    """The batch of the next step, and the order of the epoch to which it belongs."""
    if carry.order is None:
        return jax.tree.map(lambda array: array[i], source), None
    num_examples = carry.order.shape[0]
    place = carry.state.step % (num_examples // program.batch_size)
    order = jax.lax.cond(
        place == 0,
        lambda order: jax.random.permutation(step_keys(carry.state.key, carry.state.step)[0], num_examples),
        lambda order: order,
        carry.order,
    )
    places = jax.lax.dynamic_slice(order, (place * program.batch_size,), (program.batch_size,))
    rows = program.layout.shard(places if source.rows is None else source.rows[places])
    return jax.tree.map(lambda array: array[rows], source._replace(rows=None)), order


@functools.partial(jax.jit, static_argnums=(2, 3))
def epoch_order(key: PRNGKey, step: Array, num_examples: int, batch_size: int) -> Array:
    """The order of the examples in the epoch to which a step belongs."""
    first = step - step % (num_examples // batch_size)
    return jax.random.permutation(step_keys(key, first)[0], num_examples)


def has_convolutions(jaxpr: Any) -> bool:
    """Whether a program has convolutions. On a CPU, XLA runs their gradients many times slower inside a loop.

    See jax-ml/jax#12868.
    """
    return any(
        equation.primitive.name == "conv_general_dilated"
        or any(has_convolutions(inner) for value in equation.params.values() for inner in _programs(value))
        for equation in jaxpr.eqns
    )


def _programs(value: Any) -> Iterable[Any]:
    """The inner programs in a parameter of an equation: bodies of loops, branches, called functions."""
    for item in value if isinstance(value, tuple | list) else (value,):
        inner = getattr(item, "jaxpr", item)
        if getattr(inner, "eqns", None) is not None:
            yield inner
