"""A flow under one condition."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from .._types import checked
from .flow import Flow


@checked
def given(flow: Flow, x: PyTree) -> Flow:
    """The flow of `p(z | x)` for one condition, which is encoded once for as many samples as wanted.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    network = fp.nn.MLP(shape=(2,), condition_size=3, width=16, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    posterior = fp.given(flow, jnp.array([0.1, 0.2, 0.3]))
    samples = fp.sample(posterior, 1000, key=jax.random.key(1))
    ```

    **Arguments:**

    - `flow`: a flow that takes conditions.
    - `x`: the condition of one example, without the batch axis.

    **Returns:** a flow without a condition: leave `x` out when it is used. It is differentiable in `x`.

    **Raises:** `ValueError` if `x` holds no array or, when called, if the result is given a condition.
    """
    if not jax.tree.leaves(x):
        raise ValueError("`x` holds no array: give the condition of one example")
    return dataclasses.replace(flow, encoder=_Always(flow.encode(x)))


class _Always(eqx.Module):
    """An encoder that has its features already."""

    features: PyTree

    def __call__(self, x: Any) -> PyTree:
        if jax.tree.leaves(x):
            raise ValueError("`x` is given to a flow whose condition is given already, by `fp.given`: leave it out")
        return self.features
