"""Samples of a flow: noise, integrated to data."""

import math

import jax
from jaxtyping import Array, Bool, PyTree, Shaped

from .._batch import compiled, example_keys, in_batches
from .._flow.flow import Flow, check_condition
from .._rows import is_finite, nan_unless, settled, zeros_unless
from .._types import Point, PRNGKey, check_key, check_positive, checked
from . import AbstractIntegrator, ODEIntegrator, forward_mode_explained, solve_to_data


@checked
def sample(
    flow: Flow,
    num_samples: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
    throw: bool = True,
) -> Shaped[Array, "num_samples *shape"]:
    """Draw from a flow: noise, integrated to data.

    Each sample is solved on its own and has a key of its own, so that the first samples are the
    same however many are drawn.

    **Arguments:**

    - `flow`: the flow.
    - `num_samples`: how many.
    - `x`: the conditions, one for each sample; each leaf carries the batch axis. A sample whose condition holds NaN or
      infinity is NaN. For many samples under one condition, use [`flowprop.given`][]`(flow, x)` and leave this out.
    - `key`: for the noise, and for the SDE's.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`; an [`flowprop.SDEIntegrator`][] draws
      from the same distribution.
    - `batch_size`: how many are solved at once. By default as many as fit into a bounded memory.
    - `throw`: whether a solve that fails is an error. Otherwise its row is NaN.

    **Returns:** samples in the data's units, `z(1) / alpha(1)` and the flow's transform undone, of shape
    `(num_samples, *shape)`.

    **Raises:** `ValueError` if a leaf of `x` has another batch size or `num_samples` is not positive; `RuntimeError`
    if a solve fails.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_condition(x, num_samples)
    check_positive(batch_size=batch_size)
    with forward_mode_explained():
        values, failed = _sample(flow, num_samples, x, key, integrator, batch_size)
    return settled(values, failed, throw=throw)


@compiled
def _sample(
    flow: Flow, num_samples: int, x: PyTree, key: PRNGKey, integrator: AbstractIntegrator, batch_size: int | None
) -> tuple[Array, Array]:
    def one(key: PRNGKey, x: PyTree) -> tuple[Point, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        good = is_finite(x)
        z = flow.draw_noise(key=key_noise)
        value, succeeded = solve_to_data(flow, z, zeros_unless(good, x), integrator, key_path)
        return nan_unless(good, value), ~succeeded

    numbers = math.prod(flow.shape)
    return in_batches(one, (example_keys(key, num_samples), x), batch_size, numbers_per_example=numbers)
