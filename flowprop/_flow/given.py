"""A flow with one fixed condition."""

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
    """The flow of `p(z | x)` for one condition, which is encoded once for any number of samples.

    For many samples with one condition (context), this is faster than repeating the condition in each row of `x`, and
    it needs less memory. Use it after training only: `fit` would also train the encoded condition.

    **Arguments:**

    - `flow`: a flow that takes conditions.
    - `x`: the condition of one example, without the batch axis.

    **Returns:** a flow without a condition: leave out `x` when you use it. It is differentiable in `x`.

    **Raises:** `ValueError` if `x` holds no array, or NaN or infinity. The flow that is returned raises `ValueError` if
    it is given a condition.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    key = jax.random.key(0)
    network = fp.nn.MLP(shape=(2,), condition_size=3, width=8, depth=1, key=key)
    flow = fp.fm_flow(network, shape=(2,))
    posterior = fp.given(flow, jnp.array([0.1, 0.2, 0.3]))
    samples = fp.sample(posterior, 5, key=jax.random.key(1))
    print(samples.shape)  # (5, 2)
    ```
    """
    if not jax.tree.leaves(x):
        raise ValueError("`x` holds no array: give the condition of one example")
    for leaf in jax.tree.leaves(eqx.filter(x, eqx.is_inexact_array)):
        if not is_traced(leaf) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"`x` has NaN or infinity in a leaf of shape {leaf.shape}: give finite numbers")
    return dataclasses.replace(flow, encoder=_Always(flow.encode(x)))


class _Always(eqx.Module):
    """An encoder that returns the same features for every call."""

    features: PyTree

    def __call__(self, x: Any) -> PyTree:
        if jax.tree.leaves(x):
            raise ValueError("`x` is given to a flow whose condition was already given, by `fp.given`: leave it out")
        return self.features
