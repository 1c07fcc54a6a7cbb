"""A flow under one condition."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._types import checked, is_traced
from .flow import Flow


@checked
def given(flow: Flow, x: PyTree) -> Flow:
    """The flow of `p(z | x)` for one condition. The condition is encoded once, for any number of samples.

    For many samples under one condition this is faster than to repeat the condition in each row of `x`, and it needs
    less memory. It is meant for use after training: `fit` would also train the encoded condition.

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

    **Raises:** `ValueError` if `x` holds no array, or NaN or infinity, or if the flow returned is given a condition.
    """
    if not jax.tree.leaves(x):
        raise ValueError("`x` holds no array: give the condition of one example")
    for leaf in jax.tree.leaves(eqx.filter(x, eqx.is_inexact_array)):
        if not is_traced(leaf) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"`x` has NaN or infinity in a leaf of shape {leaf.shape}: give finite numbers")
    return dataclasses.replace(flow, encoder=_Always(flow.encode(x)))


class _Always(eqx.Module):
    """An encoder that has its features already."""

    features: PyTree

    def __call__(self, x: Any) -> PyTree:
        if jax.tree.leaves(x):
            raise ValueError("`x` is given to a flow whose condition is given already, by `fp.given`: leave it out")
        return self.features
