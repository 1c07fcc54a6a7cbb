"""How training calls the loss of a model, and which values the loss may return."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checked import described
from .._frozen import trainable
from .._types import PRNGKey


#: Names in the history that `fit` uses itself.
RESERVED = frozenset({"step", "loss", "evaluation_step"})


@runtime_checkable
class Trainable(Protocol):
    """A model with `loss(*batch, key=key)`. [`flowprop.fit`][] documents what the loss returns."""

    @property
    def loss(self) -> Callable[..., Any]: ...


def check_loss(model: Any, entries: tuple[PyTree, ...] | None = None, weights: Any = None) -> None:
    """Raise a `TypeError` unless the model has a loss; if data are given, one that takes an argument for each entry."""
    if isinstance(model, type) or not isinstance(model, Trainable):
        missing = "make an instance" if isinstance(model, type) else "give a flow, a classifier, or a model of your own"
        raise TypeError(
            f"`model` is {described(model)} where a model with `loss(*batch, key=key)` is needed: {missing}"
        )
    try:
        signature = inspect.signature(model.loss)
    except (TypeError, ValueError):  # a callable without a signature
        return
    names = ", ".join(signature.parameters)
    remedies = {"key": "add it, `*, key`, for random draws"}
    if weights is not None:
        remedies["weights"] = "add it, `*, weights=None`, and multiply each example's loss by its weight"
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for name, remedy in remedies.items():
        if name not in signature.parameters and not any_name:
            raise TypeError(f"`model.loss({names})` has no argument `{name}`: {remedy}")
    if entries is None:
        return
    try:
        signature.bind(*entries, **dict.fromkeys(remedies))
    except TypeError as error:
        raise TypeError(
            f"`data` has {len(entries)} {'entry' if len(entries) == 1 else 'entries'}, which `model.loss({names})` "
            f"does not take ({error}): give one entry for each of its arguments before `key`"
        ) from None


def evaluate_loss(
    model: PyTree, batch: tuple, weights: Any, *, key: PRNGKey
) -> tuple[Array, dict[str, Array], PyTree]:
    """A model's loss, its metrics, and its new arrays that are not trained (`None` if the loss returns no model)."""
    # These are read before the call: an `equinox.nn.State` cannot be read after it has been updated.
    before = jax.tree_util.tree_leaves_with_path(model), jax.tree.leaves(trainable(model)), jax.tree.structure(model)
    extra = {} if weights is None else {"weights": weights}
    returned = model.loss(*batch, key=key, **extra)
    parts = returned if isinstance(returned, tuple) else (returned,)
    if not 1 <= len(parts) <= 3:
        raise TypeError(
            f"`model.loss` returns a tuple of {len(parts)}: return the loss, `(loss, metrics)`, or "
            "`(loss, metrics, model)`"
        )
    rest: list[Any] = [{}, None]
    value, metrics, new = [*parts, *rest[len(parts) - 1 :]]
    if not is_real_scalar(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(
            f"`model.loss` returns {described(value)} where a real scalar is needed: return the mean over the batch"
        )
    if not isinstance(metrics, Mapping):
        raise TypeError(f"`model.loss` returns {described(metrics)} for its metrics: return a dict of scalars")
    check_names("model.loss", metrics)
    for name, metric in metrics.items():
        if not is_real_scalar(metric):
            raise TypeError(f"`model.loss` returns {described(metric)} for the metric {name!r}: return a real scalar")
    new_fixed = None if new is None else _new_fixed(new, *before)
    return jnp.asarray(value), {name: jnp.asarray(metric) for name, metric in metrics.items()}, new_fixed


def check_names(source: str, values: Mapping[Any, Any], taken: Iterable[str] = ()) -> None:
    """Raise an error unless the names of numbers are strings that the history does not use yet."""
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"`{source}` returns the name {described(name)} for a number: use strings as names")
    if twice := (RESERVED | {*taken}) & values.keys():
        raise ValueError(f"`{source}` returns {sorted(twice)}, names that the history already has: choose other names")


def is_real_scalar(value: Any) -> bool:
    """Whether a value is one real number of Python, NumPy or JAX."""
    if not isinstance(value, bool | int | float | jax.Array | np.ndarray | np.generic) or np.ndim(value) != 0:
        return False
    dtype = jnp.result_type(value)
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _new_fixed(new: PyTree, before: list[tuple[Any, Any]], trained: list[bool], structure: Any) -> PyTree:
    """The arrays of a returned model that are not trained. They must have the shapes and types of the old ones."""
    kept: list[Any] = []
    if jax.tree.structure(new) != structure:
        raise TypeError(
            f"`model.loss` returns, as its third value, {described(new)} with another structure than the model: "
            "return the model with other arrays, made by `equinox.tree_at`"
        )
    for leaf, (path, old), is_trained in zip(jax.tree.leaves(new), before, trained, strict=True):
        kept.append(None if is_trained or not eqx.is_array(old) else leaf)
        place = f"the model that `model.loss` returns has {described(leaf)} at `{jax.tree_util.keystr(path)}`"
        if not is_trained and eqx.is_array(leaf) and not eqx.is_array(old):
            raise TypeError(f"{place} where the model has {described(old)}: make it a JAX array, `jnp.asarray`")
        if kept[-1] is not None and not (eqx.is_array(leaf) and (leaf.shape, leaf.dtype) == (old.shape, old.dtype)):
            raise TypeError(f"{place} where the model has {described(old)}: keep shape and type")
    return jax.tree.unflatten(structure, kept)
