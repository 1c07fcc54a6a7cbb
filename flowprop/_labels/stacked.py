"""Models of equal structure stacked into one, so that `jax.vmap` or a scan runs all of them."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._flow.flow import Flow, Network


def arrays_of(network: Network) -> PyTree:
    """The arrays of a network; `None` in place of all else."""
    return eqx.filter(network, eqx.is_array)


def stacked(models: Sequence[Any], name: str = "networks") -> Any:
    """One model. Each of its arrays stacks the arrays of all `models`, the argument `name`, along a new first axis."""
    if not models:
        raise ValueError(f"`{name}` is empty: give at least one")
    arrays, rest = zip(*(eqx.partition(model, eqx.is_array) for model in models), strict=True)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in arrays]
    for index in range(1, len(models)):
        if not eqx.tree_equal(rest[0], rest[index]) or shapes[0] != shapes[index]:
            raise ValueError(
                f"`{name}[{index}]` and `{name}[0]` differ in more than the values of their arrays: build all "
                f"{name} with the same constructor and different keys"
            )
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])


def with_arrays(flow: Flow, arrays: PyTree) -> Flow:
    """`flow` with other arrays in its network: those of one block, or of all blocks stacked."""
    return eqx.tree_at(lambda flow: flow.network, flow, eqx.combine(arrays, flow.network))
