"""How a flow calls its network: in training with a key and a state if the network has them, in use without."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._types import Point, PRNGKey, Time, check_shape


Network = Callable[..., Array]


def call_network(network: Network, t: Time, z: Point, x: PyTree) -> Any:
    """The output in use: layers such as dropout are switched off."""
    if _takes_key(network):
        network = eqx.nn.inference_mode(network)
    return network(t, z, x)


def train_network(network: Network, t: Time, z: Point, x: PyTree, key: PRNGKey) -> tuple[Any, PyTree]:
    """The output in training, and the new state of the network: `None` for a network without a state."""
    if network_has_state(network):
        return network.in_training(t, z, x, key=key)  # type: ignore[attr-defined]
    return (network(t, z, x, key=key) if _takes_key(network) else network(t, z, x)), None


def checked_output(output: Any, shape: tuple[int, ...], z: Point) -> Array:
    """The network's output in the precision of `z`, or an error if it is no floating-point array of this shape."""
    if not (isinstance(output, jax.Array | np.ndarray) and jnp.issubdtype(output.dtype, jnp.floating)):
        came = f"{output.dtype} numbers" if isinstance(output, jax.Array | np.ndarray) else type(output).__name__
        raise TypeError(
            f"`network(t, z, x)` returned {came} where a floating-point array is needed: integers have no gradient"
        )
    check_shape("network(t, z, x)", output, shape, "the network sees one example and returns this")
    return jnp.asarray(output, z.dtype)


def network_has_state(network: Network) -> bool:
    """Whether training updates a state of the network: the property `has_state` of [`flowprop.nn.Stateful`][]."""
    return bool(getattr(network, "has_state", False))


def network_dtype(network: Network, z: Array) -> Any:
    """The precision of a point and of the network's arrays together."""
    arrays = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))
    return jnp.result_type(z.dtype, *(jax.dtypes.canonicalize_dtype(array.dtype) for array in arrays))


def solve_dtype(network: Network, z: Array) -> Any:
    """The precision in which a point is solved: its own, the network's, and single precision at least."""
    return jnp.result_type(network_dtype(network, z), jnp.float32)


def _takes_key(function: Callable[..., Any]) -> bool:
    try:
        return "key" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # not written in Python
        return False
