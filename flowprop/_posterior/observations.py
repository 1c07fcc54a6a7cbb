"""The observations of a posterior: their checks and their encoding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._devices import compiled
from .._flow.checks import check_condition
from .._flow.flow import Flow


def one_row(x: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x)


def without_encoder(flow: Flow) -> Flow:
    """The flow that takes encoded conditions."""
    return dataclasses.replace(flow, encoder=None)


@compiled
def encoded(flow: Flow, x: PyTree) -> PyTree:
    return jax.vmap(flow.encode)(x)


def check_observations(x: PyTree) -> int:
    """The number of observations, or a `ValueError`."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError("`x` holds no array: give the observation")
    rows = int(jnp.shape(leaves[0])[0]) if jnp.ndim(leaves[0]) else 0
    check_condition(x, rows)
    if not rows:
        raise ValueError("`x` has no rows: give at least one observation")
    for leaf in leaves:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            wrong = np.flatnonzero(~np.isfinite(np.asarray(leaf)).reshape(rows, -1).all(axis=1))
            if wrong.size:
                raise ValueError(f"`x` has NaN or infinity in row {wrong[0]} of {rows}: give finite numbers")
    return rows
