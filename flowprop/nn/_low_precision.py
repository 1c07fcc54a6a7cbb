"""A network that is trained in low precision."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._types import Point, PRNGKey, Time, checked


class LowPrecision(eqx.Module):
    """A network that computes in low precision during training, with parameters in full precision.

    In training, parameters, point, time and condition are rounded to `dtype`, as in mixed precision ([Micikevicius et
    al. 2018](https://arxiv.org/abs/1710.03740)). The parameters, their gradients, the optimiser and the average keep
    their precision. In use, where a flow calls its network without a key, nothing is rounded.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(0))
    low = fp.nn.LowPrecision(net)
    t, z = jnp.asarray(0.5), jnp.ones(2)
    print(low(t, z).dtype, bool((low(t, z) == net(t, z)).all()))  # float32 True
    print(bool((low(t, z, key=jax.random.key(1)) == net(t, z)).all()))  # False
    ```

    **Arguments:**

    - `network`: a callable `network(t, z, x)`, or `network(t, z, x, key=key)`, on one example.
    - `dtype`: the floating-point type of the computation. `bfloat16` has the range of `float32`, so that the loss
      needs no scale.
    """

    network: Callable[..., Array]
    dtype: Any = eqx.field(static=True)

    @checked
    def __init__(self, network: Callable[..., Array], dtype: Any = jnp.bfloat16) -> None:
        if getattr(network, "has_state", False):
            raise TypeError("`network` has a state, which low precision would round: wrap the network inside it")
        self.network, self.dtype = network, jnp.dtype(dtype)
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise TypeError(f"`dtype` is {self.dtype}: give a floating-point type, such as `jnp.bfloat16`")

    def __call__(self, t: Time, z: Point, x: PyTree = None, *, key: PRNGKey | None = None) -> Array:
        """The output for one example, in the type of `z`. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point.
        - `x`: the condition, or `None`.
        - `key`: a typed key in training, passed to the network if it takes one. `None` computes in full precision.

        **Returns:** the network's output.
        """
        if key is None:
            return self.network(t, z, x)
        options = {"key": key} if "key" in inspect.signature(self.network).parameters else {}
        network, t, low, x = jax.tree.map(self._rounded, (self.network, t, z, x))
        return network(t, low, x, **options).astype(z.dtype)

    def _rounded(self, leaf: Any) -> Any:
        return leaf.astype(self.dtype) if eqx.is_inexact_array(leaf) else leaf
