"""Noise, with the data to which a flow carries it."""

import math

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._batch import compiled, example_keys, in_batches
from .._flow.flow import Flow, check_condition
from .._types import Point, PRNGKey, check_key, check_positive, checked
from . import AbstractIntegrator, AbstractODEIntegrator, ODEIntegrator, solve_to_end


#: Checked by `check_shape`, which says what to do.
Batch = Float[Array | np.ndarray, "..."]
Pairs = tuple[Float[Array, "pairs *shape"], Float[Array, "pairs *shape"]]


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
        return z / flow.noise_std, solve_to_end(flow, z, x, integrator, None)

    numbers = math.prod(flow.shape)
    return in_batches(one, (example_keys(key, num_pairs), x), batch_size, numbers_per_example=numbers)
