"""The training loop on the device: one compiled step, from state to state."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._frozen import trainable
from .._types import PRNGKey, Real
from .data import to_device
from .loss import SOUND, evaluate_loss
from .optimiser import result, skips_bad_steps, start, trained


class TrainState(NamedTuple):
    """Everything that a training step changes."""

    parameters: PyTree
    optimiser: PyTree
    #: The running average of the parameters, or `None`.
    average: PyTree
    #: The arrays that are not trained, if the loss returns new ones; `None` otherwise.
    fixed: PyTree
    order: Array
    step: Array


class Constants(NamedTuple):
    """All arrays that a training step reads and does not change."""

    fixed: PyTree
    augment: PyTree
    data: PyTree
    weights: PyTree
    ema: PyTree
    key: PRNGKey


class Static:
    """A PyTree without arrays, hashable. Equal ones are interchangeable in a compiled program."""

    def __init__(self, tree: PyTree) -> None:
        leaves, structure = jax.tree.flatten(tree)
        self.tree = tree
        # 1, 1.0 and True are equal in Python, but a program has another type for each.
        self._identity = (structure, *((type(leaf), leaf) for leaf in leaves))

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._identity == other._identity


class Program(NamedTuple):
    """The parts of a training step that are not arrays. Equal programs share their compiled code."""

    model: Static
    augment: Static
    optimiser: optax.GradientTransformation
    batch_size: int
    steps_per_call: int
    #: The scalars that a step reports: names and types.
    reports: tuple[tuple[str, Any], ...]
    state: Any
    constants: Any


class Trainer:
    """The training steps of one model, which [`flowprop.fit`][] repeats.

    The functions are pure: `init` makes a state, a call takes a state to the next, and `model` reads a state. A state
    is a flat list of arrays, because flattening a model at each step costs more than the gradient of a small network. A
    call consumes its state: the arrays are donated. `unflatten` returns the parts of a state, by name.

    **Arguments:**

    - `model`: the model to train.
    - `data`: PyTrees of arrays that share their first axis, one for each argument of the model's loss.
    - `optimiser`: an Optax transformation.
    - `batch_size`: the number of examples in a batch.
    - `key`: for the order of the examples and the random draws of the model.
    - `ema`: the decay of the running average of the parameters, or `None` for no average.
    - `augment`: a callable `augment(example, key=key)`, or `None`.
    - `steps_per_call`: the number of steps in one call, or `None` to choose it by the network and the device.
    - `weights`: a weight for each example, with mean 1, or `None`.
    """

    def __init__(
        self,
        model: PyTree,
        data: tuple[PyTree, ...],
        optimiser: optax.GradientTransformation,
        *,
        batch_size: int,
        key: PRNGKey,
        ema: Real | None,
        augment: Callable[..., PyTree] | None,
        steps_per_call: int | None,
        weights: Array | None = None,
    ) -> None:
        parameters, self._rest = eqx.partition(model, trainable(model))
        if not jax.tree.leaves(parameters):
            raise ValueError("`model` has nothing to train: give it a floating-point array outside any `fp.Frozen`")
        fixed, static = eqx.partition(self._rest, eqx.is_array)
        parameters, fixed = to_device((parameters, fixed))
        augment_arrays, augment_static = eqx.partition(augment, eqx.is_array)
        model_static = Static(static)
        # If a trained model is trained further with the same key, it still gets new batches, times and noise.
        self.key = key = jax.random.fold_in(key, _fingerprint(jax.tree.leaves(parameters)))
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), (data, weights))

        def loss(parameters: PyTree, fixed: PyTree, batch: tuple, weights: Array | None) -> tuple:
            return evaluate_loss(eqx.combine(parameters, fixed, static), batch, weights, key=key)

        jaxpr, (value, metrics, new_fixed) = jax.make_jaxpr(loss, return_shape=True)(parameters, fixed, *batch)
        if steps_per_call is None:
            slow = jax.default_backend() == "cpu" and has_convolutions(jaxpr.jaxpr)
            steps_per_call = 1 if slow else 50
        self.steps_per_call = steps_per_call
        self.metrics = tuple(metrics)
        self._num_examples = jax.tree.leaves(data)[0].shape[0]
        self._optimiser = optimiser
        self._parameters, self._fixed = parameters, fixed if new_fixed is not None else None
        self._averaged = ema is not None
        state, self._structure = jax.tree.flatten(jax.eval_shape(self._first))
        constants = Constants(
            fixed if new_fixed is None else None,
            augment_arrays,
            data,
            weights,
            None if ema is None else jnp.asarray(ema, float),
            key,
        )
        self._constants, constants_structure = jax.tree.flatten(to_device(constants))
        reports = {"loss": _at_least_32_bits(value.dtype)} | {k: v.dtype for k, v in metrics.items()}
        if skips_bad_steps(jax.tree.unflatten(self._structure, state).optimiser):
            reports[SOUND] = jnp.dtype(bool)
        self._call = _compiled(
            Program(
                model_static,
                Static(augment_static),
                optimiser,
                batch_size,
                steps_per_call,
                tuple(reports.items()),
                self._structure,
                constants_structure,
            )
        )

    def _first(self) -> TrainState:
        parameters, state = start(self._optimiser, self._parameters)
        average = None
        if self._averaged:
            average = jax.tree.map(lambda p: p.astype(_at_least_32_bits(p.dtype)), self._parameters)
        return TrainState(parameters, state, average, self._fixed, jnp.arange(self._num_examples), jnp.zeros((), int))

    def init(self) -> list[Array]:
        """The state before the first step."""
        # Copies, since a call consumes the state. The caller's model, and an optimiser that keeps it, must stay valid.
        return [jnp.copy(leaf) for leaf in jax.tree.leaves(self._first())]

    def __call__(self, state: list[Array], count: int) -> tuple[list[Array], dict[str, Array]]:
        """Run `count` steps, at most `steps_per_call`. The first `count` values of each report belong to them."""
        return self._call(state, self._constants, count)

    def unflatten(self, state: list[Array]) -> TrainState:
        """The parts of a state, by name."""
        return jax.tree.unflatten(self._structure, state)

    def model(self, state: list[Array]) -> Any:
        """The model of a state, with averaged parameters if there is an average. It shares no memory with the state."""
        parts = self.unflatten(state)
        found = result(parts.parameters, parts.optimiser) if parts.average is None else parts.average
        found = jax.tree.map(lambda new, old: jnp.array(new, old.dtype, copy=True), found, self._parameters)
        fixed = () if parts.fixed is None else (jax.tree.map(jnp.copy, parts.fixed),)
        return eqx.combine(found, *fixed, self._rest)


def _step(program: Program, state: TrainState, constants: Constants) -> tuple[TrainState, dict[str, Array]]:
    num_examples = state.order.shape[0]
    key_order, key_loss, key_augment = jax.random.split(jax.random.fold_in(constants.key, state.step), 3)
    place = state.step % (num_examples // program.batch_size)
    order = jax.lax.cond(
        place == 0,
        lambda order: jax.random.permutation(key_order, num_examples),
        lambda order: order,
        state.order,
    )
    rows = jax.lax.dynamic_slice(order, (place * program.batch_size,), (program.batch_size,))
    batch, weights = jax.tree.map(lambda array: array[rows], (constants.data, constants.weights))
    augment = eqx.combine(constants.augment, program.augment.tree)
    if augment is not None:
        keys = jax.random.split(key_augment, program.batch_size)
        batch = (jax.vmap(lambda example, key: augment(example, key=key))(batch[0], keys), *batch[1:])
    fixed = constants.fixed if state.fixed is None else state.fixed

    def loss(parameters: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        model = eqx.combine(parameters, fixed, program.model.tree)
        value, metrics, new = evaluate_loss(model, batch, weights, key=key_loss)
        return value, (metrics, new)

    (value, (metrics, new_fixed)), gradient = jax.value_and_grad(loss, has_aux=True)(trained(state.parameters))
    updates, optimiser = optax.with_extra_args_support(program.optimiser).update(
        gradient,
        state.optimiser,
        state.parameters,
        value=value,
        grad=gradient,
        value_fn=lambda parameters: loss(parameters)[0],
    )
    parameters = optax.apply_updates(state.parameters, updates)
    average = state.average
    if constants.ema is not None:
        # Warm-up: the decay is min(ema, step / (step + 10)), so that the initial parameters do not dominate. The decay
        # is computed in 32 bits, since half precision rounds 0.999 to 1.
        decay = jnp.minimum(constants.ema, state.step / (state.step + 10.0))
        average = jax.tree.map(
            lambda a, p: p.astype(a.dtype) + decay.astype(a.dtype) * (a - p.astype(a.dtype)),
            average,
            result(parameters, optimiser),
        )
    reports = {"loss": value, **metrics}
    if SOUND in dict(program.reports):
        reports[SOUND] = jnp.isfinite(value) | _all_finite(trained(parameters))
    return TrainState(parameters, optimiser, average, new_fixed, order, state.step + 1), reports


def _at_least_32_bits(dtype: Any) -> Any:
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def _all_finite(tree: PyTree) -> Array:
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])


def _run(
    program: Program, leaves: list[Array], constants: list[Array], count: Array
) -> tuple[list[Array], dict[str, Array]]:
    """Run `count` steps. Returns the new state and the reports of the steps."""
    state, fixed = jax.tree.unflatten(program.state, leaves), jax.tree.unflatten(program.constants, constants)
    if program.steps_per_call == 1:
        state, reports = _step(program, state, fixed)
        return jax.tree.leaves(state), {name: reports[name].astype(dtype)[None] for name, dtype in program.reports}

    def body(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
        state, found = carry
        state, reports = _step(program, state, fixed)
        return state, {name: found[name].at[i].set(reports[name].astype(found[name].dtype)) for name in found}

    found = {name: jnp.zeros(program.steps_per_call, dtype) for name, dtype in program.reports}
    state, found = jax.lax.fori_loop(0, count, body, (state, found))
    return jax.tree.leaves(state), found


def _compiled(program: Program) -> Callable[..., tuple[list[Array], dict[str, Array]]]:
    """The steps of a program; all equal programs share one compiled function."""
    try:
        hash(program)
    except TypeError:  # a static field that cannot be hashed
        return _jitted.__wrapped__(program)
    return _jitted(program)


@functools.lru_cache(maxsize=16)
def _jitted(program: Program) -> Callable[..., tuple[list[Array], dict[str, Array]]]:
    return jax.jit(functools.partial(_run, program), donate_argnums=0)


@jax.jit
def _fingerprint(leaves: list[Array]) -> Array:
    """A number that depends on all bits of some arrays: the sum of their words, modulo 2^32."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in leaves:
        parts = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        for part in parts:
            kind = {1: jnp.uint8, 2: jnp.uint16}.get(part.dtype.itemsize, jnp.uint32)
            bits = jax.lax.bitcast_convert_type(part, kind)
            total += jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
    return total


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
