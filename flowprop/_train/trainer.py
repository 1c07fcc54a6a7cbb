"""The parts of training, for a loop of one's own."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._frozen import trainable
from .._types import PRNGKey, Real, check_key, check_number, checked
from .alike import Alike
from .data import to_device
from .loss import check_loss
from .optimiser import as_transformation, result, start
from .step import Constants, Rule, Static, TrainState, at_least_32_bits, take_step


class Trainer:
    """The parts of training, for a loop of your own: a state, a step, and the model of a state.

    [`flowprop.fit`][] is such a loop, with data, validation and checkpoints. All functions are pure: the state is a
    PyTree of arrays, and the same state and batch give the same next state.

    ```python
    import flowprop as fp
    import jax
    import optax

    points, _ = fp.data.two_moons(1000, key=jax.random.key(0))
    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(1))
    trainer = fp.Trainer(fp.fm_flow(net, shape=(2,)), optax.adam(1e-2), ema=0.99)
    state = trainer.init(key=jax.random.key(2))
    for batch in points.reshape(10, 100, 2):
        state, metrics = trainer.step(state, batch)
    flow = trainer.model(state)
    print(state.step, sorted(metrics), flow.shape)  # 10 ['loss'] (2,)
    ```

    **Arguments:**

    - `model`: the model to train, as in [`flowprop.fit`][]. It is not changed.
    - `optimiser`: any Optax optimiser.
    - `ema`: the decay of a moving average of the parameters, between 0 and 1. By default there is no average.
    - `augment`: a callable `augment(example, key=key)` on each example of the first entry of a batch. By default none.

    **Raises:** `TypeError` if `model` has no `loss`, or if `optimiser` is no optimiser; `ValueError` if the model has
    nothing to train, or if `ema` is out of range.
    """

    @checked
    def __init__(
        self, model: Any, optimiser: Any, *, ema: Real | None = None, augment: Callable[..., PyTree] | None = None
    ) -> None:
        check_loss(model)
        if ema is not None:
            check_number("ema", ema, above=0, below=1, remedy="give a decay between 0 and 1, for example 0.999")
        parameters, self._rest = eqx.partition(model, trainable(model))
        if not jax.tree.leaves(parameters):
            raise ValueError("`model` has nothing to train: give it a floating-point array outside any `fp.Frozen`")
        fixed, static = eqx.partition(self._rest, eqx.is_array)
        augment_arrays, augment_static = eqx.partition(augment, eqx.is_array)
        self.parameters = to_device(parameters)
        self.rule = Rule(Static(static), Static(augment_static), Alike(as_transformation(optimiser)))
        average = None if ema is None else jnp.asarray(ema, float)
        self.constants = to_device(Constants(fixed, augment_arrays, average))

    @checked
    def init(self, *, key: PRNGKey) -> TrainState:
        """The state before the first step.

        **Arguments:**

        - `key`: a typed key for all random draws of the training. It is mixed with the initial parameters, so that a
          model that has been trained gets other draws under the same key.

        **Returns:** a [`flowprop.TrainState`][].
        """
        check_key("key", key)
        parameters, optimiser = start(self.rule.optimiser.optimiser, self.parameters)
        average = None
        if self.constants.ema is not None:
            average = jax.tree.map(lambda p: p.astype(at_least_32_bits(p.dtype)), self.parameters)
        key = jax.random.fold_in(key, fingerprint(jax.tree.leaves(self.parameters)))
        state = TrainState(parameters, optimiser, average, None, jnp.zeros((), int), key)
        # Copies, since a step consumes the state. The caller's model, and an optimiser that keeps it, must stay valid.
        return jax.tree.map(jnp.copy, state)

    def step(self, state: TrainState, *batch: PyTree, weights: Array | None = None) -> tuple[TrainState, dict]:
        """One step on one batch. It is compiled, and it consumes its state: the memory of `state` is used again.

        **Arguments:**

        - `state`: the state before the step.
        - `batch`: one array or PyTree of arrays for each argument of the model's loss, with the batch axis first.
        - `weights`: a weight for each example of the batch, passed to the loss. By default none.

        **Returns:** the next state, and a dict of scalars: `loss` and the metrics of the loss.
        """
        return compiled(take_step, self.rule, donate=True)(state, self.constants, batch, weights)

    def model(self, state: TrainState) -> Any:
        """The model of a state, with averaged parameters if there is an average. It shares no memory with the state.

        **Arguments:**

        - `state`: a state of this trainer.

        **Returns:** a model of the structure that was given.
        """
        return self.assemble(self.arrays(state))

    def arrays(self, state: TrainState) -> tuple[PyTree, PyTree]:
        """Copies of the arrays of `model(state)`: those that are trained, and those that the loss returns."""
        found = result(state.parameters, state.optimiser) if state.average is None else state.average
        found = jax.tree.map(lambda new, old: jnp.array(new, old.dtype, copy=True), found, self.parameters)
        return found, jax.tree.map(jnp.copy, state.fixed)

    def assemble(self, arrays: tuple[PyTree, PyTree]) -> Any:
        """The model with these arrays."""
        parameters, fixed = arrays
        return eqx.combine(parameters, *(() if fixed is None else (fixed,)), self._rest)


def compiled(function: Callable[..., Any], rule: Any, donate: bool = False) -> Callable[..., Any]:
    """`function(rule, state, ...)`, compiled, if `donate` with its state donated; equal rules share one program."""
    try:
        hash(rule)
    except TypeError:  # a static field that cannot be hashed
        return _compiled.__wrapped__(function, rule, donate)
    return _compiled(function, rule, donate)


@functools.lru_cache(maxsize=16)
def _compiled(function: Callable[..., Any], rule: Any, donate: bool) -> Callable[..., Any]:
    return jax.jit(functools.partial(function, rule), donate_argnums=0 if donate else ())


@jax.jit
def fingerprint(leaves: list[Array]) -> Array:
    """A number that depends on all bits of some arrays: the sum of their words, modulo 2^32."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in leaves:
        parts = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        for part in parts:
            kind = {1: jnp.uint8, 2: jnp.uint16}.get(part.dtype.itemsize, jnp.uint32)
            bits = jax.lax.bitcast_convert_type(part, kind)
            total += jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
    return total
