"""How a flow calls its network: in training with a key and a state if the network has them, in use without."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from .._types import Point, PRNGKey, Time


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


def network_has_state(network: Network) -> bool:
    """Whether training updates a state of the network: the property `has_state` of [`flowprop.nn.Stateful`][]."""
    return bool(getattr(network, "has_state", False))


def _takes_key(function: Callable[..., Any]) -> bool:
    try:
        return "key" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # not written in Python
        return False
