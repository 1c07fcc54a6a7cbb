"""Samples of a flow: noise, integrated to data."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from ._batch import example_keys, in_batches
from ._flow import Flow, check_condition
from ._solve import AbstractIntegrator, ODEIntegrator, transport
from ._types import Point, PRNGKey, check_key, check_positive, checked


@checked
def sample(
    flow: Flow,
    num_samples: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> Float[Array, "num_samples *shape"]:
    """Draw from a flow: noise, integrated to data.

    Each sample is solved on its own and has a key of its own, so that the first samples are the
    same however many are drawn.

    **Arguments:**

    - `flow`: the flow.
    - `num_samples`: how many.
    - `x`: the conditions, one for each sample; each leaf carries the batch axis.
    - `key`: for the noise, and for the SDE's.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`; an [`flowprop.SDEIntegrator`][] draws
      from the same distribution.
    - `batch_size`: how many are solved at once. By default 1024 on a CPU, whose cache they then fit,
      and all of them elsewhere.

    **Returns:** samples in data coordinates, `z(1) / alpha(1)`, of shape `(num_samples, *shape)`.

    **Raises:** `ValueError` if a leaf of `x` has another batch size or `num_samples` is not positive.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_condition(x, num_samples)
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    return _sample(flow, num_samples, x, key, integrator, batch_size)


@eqx.filter_jit
def _sample(
    flow: Flow, num_samples: int, x: PyTree, key: PRNGKey, integrator: AbstractIntegrator, batch_size: int | None
) -> Array:
    def one(key: PRNGKey, x: PyTree) -> Point:
        key_noise, key_path = jax.random.split(key)
        return transport(flow, flow.draw_noise(key=key_noise), x, integrator, key_path)

    return in_batches(one, (example_keys(key, num_samples), x), batch_size)
