"""A flow trained on given pairs of noise and data."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._flow.flow import Flow, check_stateless
from .._loss.coupling import AbstractCoupling
from .._types import Data, PRNGKey, Scalar, Weights, check_shape, checked


#: Checked by `check_shape`, which says what to do.
Batch = Float[Array | np.ndarray, "..."]


class PairedFlow(eqx.Module):
    """A flow trained on given pairs of noise and data: any that belong together, or those of a flow.

    On the pairs of [`flowprop.reflow_pairs`][] it learns straighter paths, whose ODE needs fewer steps
    (reflow: Liu, Gong & Liu 2023). With `time_sampling=fp.GridTimeSampling(k)` the flow is trained
    only where `k` steps of Euler look: distillation into `k` steps, and into one evaluation at `k = 1`.

    `fp.fit(fp.PairedFlow(flow), (z0, z1), ...)` trains it; the `.flow` of what comes back is used.

    **Arguments:**

    - `flow`: the flow; its own source and coupling take no part in the training.
    """

    flow: Flow

    def __check_init__(self) -> None:
        check_stateless(self.flow, "PairedFlow")

    def check_data(self, z0: Batch, z1: Data, x: PyTree = None) -> None:
        """Look at all data before training: see [`flowprop.Flow`][]."""
        self.flow.check_data(z1, x)

    @checked
    def loss(self, z0: Batch, z1: Data, x: PyTree = None, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The flow's loss on a batch of pairs.

        **Arguments:**

        - `z0`: a batch of noise, in the path's coordinates.
        - `z1`: the data that belong to it, row by row, in their own units.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: for the times.
        - `weights`: of the pairs, `(n,)`. By default 1.

        **Returns:** a scalar.

        **Raises:** `ValueError` if `z0` and `z1` are not batches of one size and the flow's `shape`.
        """
        check_shape("z0", z0, z1.shape, "one row of noise for each row of `z1`")
        return dataclasses.replace(self.flow, coupling=_Given(jnp.asarray(z0))).loss(z1, x, key=key, weights=weights)


class _Given(AbstractCoupling):
    noise: Float[Array, "batch *shape"]

    def pair(self, z0: Array, z1: Array, x: PyTree, *, key: PRNGKey) -> Array:
        return self.noise.astype(z1.dtype)
