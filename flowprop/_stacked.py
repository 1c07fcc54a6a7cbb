"""Networks that differ in their parameters alone, as one network."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._flow import Network


def arrays_of(network: Network) -> PyTree:
    """The arrays of a network."""
    return eqx.filter(network, eqx.is_array)


def stacked(networks: Sequence[Network]) -> Network:
    """One network whose every array holds those of all, along a new first axis."""
    if not networks:
        raise ValueError("`networks` is empty: give one network for each block")
    arrays, rest = zip(*(eqx.partition(network, eqx.is_array) for network in networks), strict=True)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in arrays]
    for index in range(1, len(networks)):
        if not eqx.tree_equal(rest[0], rest[index]) or shapes[0] != shapes[index]:
            raise ValueError(
                f"`networks` differ: number {index} differs from number 0 in more than the values of arrays; make all "
                "networks by one constructor, with a key for each"
            )
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])
