"""The log-likelihood of data under a flow."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._augmented import AugmentedVelocity
from ._batch import example_keys, in_batches
from ._divergence import AbstractDivergence, ExactDivergence
from ._flow import Flow, check_condition
from ._solve import AbstractIntegrator, ODEIntegrator
from ._types import Point, Points, PRNGKey, Scalar, check_key, check_positive, check_shape, checked


@checked
def log_prob(
    flow: Flow,
    z1: Points,
    x: PyTree = None,
    *,
    key: PRNGKey | None = None,
    divergence: AbstractDivergence | None = None,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """The log-likelihood of data under a flow: the exact pushforward of N(0, I) by its ODE.

    `log p(z_1) = log N(z(0); 0, I) - int_0^1 div v dt + d log alpha(1)` (Chen et al. 2018, eq. 8),
    solved from `alpha(1) z_1` back to noise. Where the schedule leaves noise on the data, so that
    `alpha(1) < 1`, it is the density of slightly noised data.

    **Arguments:**

    - `flow`: the flow.
    - `z1`: a batch of data, `(n, *shape)`.
    - `x`: the conditions; each leaf carries the batch axis.
    - `key`: for a stochastic divergence.
    - `divergence`: by default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: an ODE's. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many are solved at once. By default 1024 on a CPU, whose cache they then fit,
      and all of them elsewhere.

    **Returns:** log-densities in nats, `(n,)`.

    **Raises:** `TypeError` for an SDE, which has no likelihood; `ValueError` if `z1` or `x` has the
    wrong shape or a stochastic divergence comes without a key.
    """
    divergence = ExactDivergence() if divergence is None else divergence
    z1 = checked_data(flow, z1, x, key, batch_size)
    return _log_prob(flow, z1, x, key, divergence, ode_of(integrator), batch_size)


def ode_of(integrator: AbstractIntegrator | None) -> ODEIntegrator:
    """The integrator asked for, or the default; a `TypeError` if it is none of an ODE."""
    integrator = ODEIntegrator() if integrator is None else integrator
    if not isinstance(integrator, ODEIntegrator):
        raise TypeError(f"`integrator` is {type(integrator).__name__}: a likelihood needs the ODE, `fp.ODEIntegrator`")
    return integrator


def checked_data(flow: Flow, z1: Points, x: PyTree, key: PRNGKey | None, batch_size: int | None) -> Array:
    """`z1` as an array, or an error that says what is wrong with it, with `x`, `key` or `batch_size`."""
    z1 = jnp.asarray(z1)
    check_shape("z1", z1, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_condition(x, z1.shape[0])
    if key is not None:
        check_key("key", key)
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    return z1


@eqx.filter_jit
def _log_prob(
    flow: Flow,
    z1: Array,
    x: PyTree,
    key: PRNGKey | None,
    divergence: AbstractDivergence,
    integrator: ODEIntegrator,
    batch_size: int | None,
) -> Array:
    start, end = flow.span
    alpha = flow.path.alpha(jnp.asarray(end, z1.dtype))

    def one(z: Point, x: PyTree, key: PRNGKey | None) -> Scalar:
        field = AugmentedVelocity(flow, divergence, z, key=key)
        z0, change = integrator.end_point(field, field.start(alpha * z), x, end, start)
        return flow.noise_log_prob(z0) + change[0] + z.size * jnp.log(alpha)

    keys = None if key is None else example_keys(key, z1.shape[0])
    return in_batches(one, (z1, x, keys), batch_size)
