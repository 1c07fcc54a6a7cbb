"""Networks of equal structure stacked into one, so that `jax.vmap` or a scan runs all of them."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._flow.flow import Flow, Network


def arrays_of(network: Network) -> PyTree:
    """The arrays of a network; `None` in place of all else."""
    return eqx.filter(network, eqx.is_array)


def stacked(networks: Sequence[Network]) -> Network:
    """One network. Each of its arrays stacks the arrays of all `networks` along a new first axis."""
    if not networks:
        raise ValueError("`networks` is empty: give one network for each block")
    arrays, rest = zip(*(eqx.partition(network, eqx.is_array) for network in networks), strict=True)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in arrays]
    for index in range(1, len(networks)):
        if not eqx.tree_equal(rest[0], rest[index]) or shapes[0] != shapes[index]:
            raise ValueError(
                f"`networks[{index}]` and `networks[0]` differ in more than the values of their arrays: build all "
                "networks with the same constructor and different keys"
            )
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])


def with_arrays(flow: Flow, arrays: PyTree) -> Flow:
    """`flow` with other arrays in its network: those of one block, or of all blocks stacked."""
    return eqx.tree_at(lambda flow: flow.network, flow, eqx.combine(arrays, flow.network))
