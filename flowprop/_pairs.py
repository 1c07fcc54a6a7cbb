"""Noise and data in pairs: made by a flow, and what a flow is trained on."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._batch import compiled, example_keys, in_batches
from ._coupling import AbstractCoupling
from ._flow import Flow, check_condition, check_stateless
from ._solve import AbstractIntegrator, AbstractODEIntegrator, ODEIntegrator, transport
from ._types import Data, Point, PRNGKey, Scalar, Weights, check_key, check_positive, check_shape, checked


#: Checked by `check_shape`, which says what to do.
Batch = Float[Array | np.ndarray, "..."]
Pairs = tuple[Float[Array, "pairs *shape"], Float[Array, "pairs *shape"]]


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


@checked
def reflow_pairs(
    flow: Flow,
    num_pairs: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    integrator: AbstractODEIntegrator | None = None,
    batch_size: int | None = None,
) -> Pairs:
    """Noise, and the data to which a flow's ODE carries it: what [`flowprop.PairedFlow`][] is trained on.

    **Arguments:**

    - `flow`: the flow.
    - `num_pairs`: how many.
    - `x`: the conditions, one for each pair; each leaf carries the batch axis.
    - `key`: for the noise. The data are those of [`flowprop.sample`][] with this key.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many are solved at once, as in [`flowprop.sample`][].

    **Returns:** `(z0, z1)`, each `(num_pairs, *shape)`: noise of the flow's source in the path's coordinates, and data
    in their own units.

    **Raises:** `ValueError` if a leaf of `x` has another batch size or `num_pairs` is not positive.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    check_key("key", key)
    check_positive(num_pairs=num_pairs)
    check_condition(x, num_pairs)
    check_positive(batch_size=batch_size)
    return _reflow_pairs(flow, num_pairs, x, key, integrator, batch_size)


@compiled
def _reflow_pairs(
    flow: Flow, num_pairs: int, x: PyTree, key: PRNGKey, integrator: AbstractIntegrator, batch_size: int | None
) -> Pairs:
    def one(key: PRNGKey, x: PyTree) -> tuple[Point, Point]:
        key_noise, _ = jax.random.split(key)
        z = flow.draw_noise(key=key_noise)
        return z / flow.noise_std, transport(flow, z, x, integrator, None)

    numbers = math.prod(flow.shape)
    return in_batches(one, (example_keys(key, num_pairs), x), batch_size, numbers_per_example=numbers)
