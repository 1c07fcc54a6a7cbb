"""One training step: from state to state, as a pure function."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from .._types import PRNGKey
from .alike import Alike
from .loss import evaluate_loss
from .optimiser import result, trained


class TrainState(NamedTuple):
    """All that a training step changes: a PyTree of arrays.

    **Fields:**

    - `parameters`: the trained arrays of the model, in the form that the optimiser takes.
    - `optimiser`: the state of the optimiser.
    - `average`: the moving average of the parameters, or `None`.
    - `fixed`: the arrays that are not trained, if the loss returns new ones; `None` otherwise.
    - `step`: the number of steps taken.
    - `key`: the typed key from which each step derives its draws.

    ```python
    import flowprop as fp
    import jax
    import optax

    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(0))
    state = fp.Trainer(fp.fm_flow(net, shape=(2,)), optax.adam(1e-3)).init(key=jax.random.key(1))
    print(state.step, state.average)  # 0 None
    ```
    """

    parameters: PyTree
    optimiser: PyTree
    average: PyTree
    fixed: PyTree
    step: Array
    key: PRNGKey


class Constants(NamedTuple):
    """The arrays that a step reads and does not change."""

    fixed: PyTree
    augment: PyTree
    ema: PyTree


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


class Rule(NamedTuple):
    """The parts of a step that are not arrays. Equal rules share their compiled code."""

    model: Static
    augment: Static
    optimiser: Alike


def take_step(
    rule: Rule, state: TrainState, constants: Constants, batch: tuple[PyTree, ...], weights: Array | None
) -> tuple[TrainState, dict[str, Array]]:
    """The state after one step, and the loss with its metrics."""
    _, key_loss, key_augment = step_keys(state.key, state.step)
    augment = eqx.combine(constants.augment, rule.augment.tree)
    if augment is not None:
        keys = jax.random.split(key_augment, jax.tree.leaves(batch)[0].shape[0])
        batch = (jax.vmap(lambda example, key: augment(example, key=key))(batch[0], keys), *batch[1:])
    fixed = constants.fixed if state.fixed is None else state.fixed

    def loss(parameters: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        model = eqx.combine(parameters, fixed, rule.model.tree)
        value, metrics, new = evaluate_loss(model, batch, weights, key=key_loss)
        return value, (metrics, new)

    (value, (metrics, new_fixed)), gradient = jax.value_and_grad(loss, has_aux=True)(trained(state.parameters))
    updates, optimiser = optax.with_extra_args_support(rule.optimiser.optimiser).update(
        gradient,
        state.optimiser,
        state.parameters,
        value=value,
        grad=gradient,
        value_fn=lambda parameters: loss(parameters)[0],
    )
    parameters = optax.apply_updates(state.parameters, updates)
    average = state.average
    if average is not None:
        # Warm-up: the decay is min(ema, step / (step + 10)), so that the initial parameters do not dominate. The decay
        # is computed in 32 bits, since half precision rounds 0.999 to 1.
        decay = jnp.minimum(constants.ema, state.step / (state.step + 10.0))
        average = jax.tree.map(
            lambda a, p: p.astype(a.dtype) + decay.astype(a.dtype) * (a - p.astype(a.dtype)),
            average,
            result(parameters, optimiser),
        )
    return TrainState(parameters, optimiser, average, new_fixed, state.step + 1, state.key), {"loss": value, **metrics}


def step_keys(key: PRNGKey, step: Any) -> tuple[PRNGKey, PRNGKey, PRNGKey]:
    """The keys of a step: for the order of an epoch that it begins, for the loss and for the augmentation."""
    order, loss, augment = jax.random.split(jax.random.fold_in(key, step), 3)
    return order, loss, augment


def at_least_32_bits(dtype: Any) -> Any:
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all numbers of all arrays are finite."""
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])
