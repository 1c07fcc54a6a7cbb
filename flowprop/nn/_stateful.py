"""A network with a state, such as the running statistics of batch normalisation."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .._frozen import Frozen
from .._types import Point, PRNGKey, Time, checked


class Stateful(eqx.Module):
    """A network with a state, such as the running statistics of batch normalisation.

    The network follows [Equinox's convention for states](https://docs.kidger.site/equinox/api/nn/stateful/). During
    training `fit` calls `network(t, z, x, state)` under `jax.vmap(..., axis_name="batch")`, and stores the new state in
    the trained model. Everywhere else the network is in inference mode, and its state does not change.

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    class Network(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self, key):
            self.linear = eqx.nn.Linear(3, 2, key=key)
            self.norm = eqx.nn.BatchNorm(2, axis_name="batch", mode="batch")

        def __call__(self, t, z, x, state):
            z, state = self.norm(z, state)
            return self.linear(jnp.append(z, t)), state

    network, state = eqx.nn.make_with_state(Network)(jax.random.key(0))
    flow = fp.fm_flow(fp.nn.Stateful(network, state), shape=(2,))
    print(flow.velocity(0.5, jnp.zeros(2)).shape)  # (2,)
    ```

    **Arguments:**

    - `network`: a callable `network(t, z, x, state)` or `network(t, z, x, state, key=key)` on one example. It returns
      the pair `(output, new_state)`.
    - `state`: the network's initial state, made by `equinox.nn.make_with_state`.
    """

    network: Callable[..., tuple[Array, eqx.nn.State]]
    state: PyTree

    @checked
    def __init__(self, network: Callable[..., tuple[Array, eqx.nn.State]], state: PyTree) -> None:
        self.network = network
        # Frozen: no gradient flows into a state, and neither the optimiser nor the running average changes it.
        self.state = jax.tree.map(lambda leaf: Frozen(leaf) if eqx.is_array(leaf) else leaf, state)

    @property
    def has_state(self) -> bool:
        """`True`, because training updates the state."""
        return True

    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Array:
        """The output for one example in inference mode. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point.
        - `x`: the condition, or `None`.

        **Returns:** the network's output, without its state.
        """
        return eqx.nn.inference_mode(self.network)(t, z, x, self._plain_state)[0]

    def in_training(self, t: Time, z: Point, x: PyTree, *, key: PRNGKey) -> tuple[Any, PyTree]:
        """The output for one example of a batch during training, and the new state.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point.
        - `x`: the condition, or `None`.
        - `key`: a typed key; the network receives it if it has an argument `key`.

        **Returns:** the pair of the network's output and its new state, whose arrays are [`flowprop.Frozen`][].
        """
        options = {"key": key} if "key" in inspect.signature(self.network).parameters else {}
        output, state = self.network(t, z, x, self._plain_state, **options)
        return output, jax.tree.map(lambda leaf: Frozen(leaf) if eqx.is_array(leaf) else leaf, state)

    @property
    def _plain_state(self) -> PyTree:
        def value(leaf: Any) -> Any:
            return leaf.value if isinstance(leaf, Frozen) else leaf

        return jax.tree.map(value, self.state, is_leaf=lambda leaf: isinstance(leaf, Frozen))
