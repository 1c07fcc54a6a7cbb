"""Support for all Optax optimisers: the form of their parameters, and which parameters are the result."""

import inspect
import logging
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from .._checked import described


def as_transformation(optimiser: Any) -> optax.GradientTransformation:
    """An object with Optax's `init` and `update`, as a transformation. The same object always gives an equal one."""
    init, update = getattr(optimiser, "init", None), getattr(optimiser, "update", None)
    if isinstance(optimiser, optax.GradientTransformation):
        return optimiser
    # `optax.MultiSteps` is not a transformation itself. Its `update` takes the arguments of its inner optimiser.
    if callable(getattr(optimiser, "gradient_transformation", None)) and callable(init) and callable(update):
        return optax.GradientTransformationExtraArgs(init, update)
    remedy = "give one of Optax, such as `optax.adam(1e-3)`"
    if inspect.isroutine(optimiser):
        remedy = f"call it, as in `{getattr(optimiser, '__name__', 'optax.adam')}(1e-3)`"
    elif isinstance(optimiser, int | float):
        remedy = f"give an optimiser with this learning rate, such as `optax.adam({optimiser})`"
    raise TypeError(f"`optimiser` is {described(optimiser)} where an Optax optimiser is needed: {remedy}")


def start(optimiser: optax.GradientTransformation, parameters: PyTree) -> tuple[PyTree, PyTree]:
    """Parameters in the form that the optimiser takes, and its initial state.

    `optax.lookahead` takes pairs of fast and slow parameters. All others take the parameters as they are.
    """
    # `optax.lookahead` logs a warning about parameters that are not pairs. Only its state shows that it needs pairs.
    logger = logging.getLogger("absl")
    logger.addFilter(_is_no_advice_on_pairs)
    try:
        state = optimiser.init(parameters)
    finally:
        logger.removeFilter(_is_no_advice_on_pairs)
    if not _found(state, optax.LookaheadState):
        return parameters, state
    parameters = optax.LookaheadParams.init_synced(parameters)
    return parameters, optimiser.init(parameters)


def _is_no_advice_on_pairs(record: logging.LogRecord) -> bool:
    return "no attribute `fast`" not in record.getMessage()


def trained(parameters: PyTree) -> PyTree:
    """The parameters at which the gradient is evaluated."""
    return parameters.fast if isinstance(parameters, optax.LookaheadParams) else parameters


def result(parameters: PyTree, state: PyTree) -> PyTree:
    """The parameters to use after training. With some optimisers the gradient is evaluated at others.

    For `optax.lookahead` they are the slow parameters. For a schedule-free optimiser ([Defazio et al.
    2024](https://arxiv.org/abs/2405.15682)) they are `optax.contrib.schedule_free_eval_params`.
    """
    if isinstance(parameters, optax.LookaheadParams):
        return parameters.slow
    for free in _found(state, optax.contrib.ScheduleFreeState):
        # Masked parameters belong to another optimiser of `optax.partition`. With z = y they stay as they are, x = y.
        z = jax.tree.map(
            lambda z, y: y if isinstance(z, optax.MaskedNode) else z,
            free.z,
            parameters,
            is_leaf=lambda node: isinstance(node, optax.MaskedNode),
        )
        found = optax.contrib.schedule_free_eval_params(free._replace(z=z), parameters)
        parameters = jax.tree.map(lambda x, y: x.astype(y.dtype), found, parameters)
    return parameters


def skips_bad_steps(state: PyTree) -> bool:
    """Whether the optimiser itself skips gradients that are not finite, as `optax.apply_if_finite` does."""
    return bool(_found(state, optax.ApplyIfFiniteState))


def _found(state: PyTree, kind: type) -> list[Any]:
    """All parts of an optimiser's state that are of one class."""
    return [n for n in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind)) if isinstance(n, kind)]
