"""Samples together with their log-likelihoods, in one solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._augmented import AugmentedVelocity
from ._batch import example_keys, in_batches
from ._divergence import AbstractDivergence, ExactDivergence
from ._flow import Flow, check_condition
from ._log_prob import ode_of
from ._solve import AbstractIntegrator, ODEIntegrator
from ._types import Point, PRNGKey, Scalar, check_key, check_positive, checked


@checked
def sample_and_log_prob(
    flow: Flow,
    num_samples: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    divergence: AbstractDivergence | None = None,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> tuple[Float[Array, "num_samples *shape"], Float[Array, " num_samples"]]:
    """Draw from a flow, and the log-density of each draw, in one solve from noise to data.

    `log p(z_1) = log N(z_0; 0, I) - int_0^1 div v dt + d log alpha(1)` (Chen et al. 2018, eq. 8). The samples are
    those of [`flowprop.sample`][] under the same key. (Where a flow's span ends before 1, `sample` goes on by one
    estimate of the target; what comes from here is the end of the ODE, whose density is known.)

    **Arguments:** as of `sample`, with an ODE's integrator, and

    - `divergence`: by default [`flowprop.ExactDivergence`][]`()`.

    **Returns:** samples in data coordinates, `(num_samples, *shape)`, and their log-densities in nats,
    `(num_samples,)`.

    **Raises:** `TypeError` for an SDE; `ValueError` if a leaf of `x` has another batch size or `num_samples` is
    not positive.
    """
    divergence = ExactDivergence() if divergence is None else divergence
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_condition(x, num_samples)
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    return _sample_and_log_prob(flow, num_samples, x, key, divergence, ode_of(integrator), batch_size)


@eqx.filter_jit
def _sample_and_log_prob(
    flow: Flow,
    num_samples: int,
    x: PyTree,
    key: PRNGKey,
    divergence: AbstractDivergence,
    integrator: ODEIntegrator,
    batch_size: int | None,
) -> tuple[Array, Array]:
    start, end = flow.span

    def one(key: PRNGKey, x: PyTree) -> tuple[Point, Scalar]:
        key_noise, key_probes = jax.random.split(key)
        z0 = flow.draw_noise(key=key_noise)
        field = AugmentedVelocity(flow, divergence, z0, key=key_probes)
        z1, change = integrator.end_point(field, field.start(z0), x, start, end)
        alpha = flow.path.alpha(jnp.asarray(end, z0.dtype))
        return z1 / alpha, flow.noise_log_prob(z0) - change[0] + z0.size * jnp.log(alpha)

    return in_batches(one, (example_keys(key, num_samples), x), batch_size)
