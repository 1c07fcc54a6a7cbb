"""The log-likelihood of data under a flow."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._batch import example_keys, in_batches
from ._divergence import AbstractDivergence, ExactDivergence
from ._flow import Flow, check_condition
from ._solve import AbstractIntegrator, ODEIntegrator
from ._types import Point, Points, PRNGKey, Scalar, Time, check_key, check_positive, check_shape, checked


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
    integrator = ODEIntegrator() if integrator is None else integrator
    divergence = ExactDivergence() if divergence is None else divergence
    if not isinstance(integrator, ODEIntegrator):
        raise TypeError(f"`integrator` is {type(integrator).__name__}: a likelihood needs the ODE, `fp.ODEIntegrator`")
    if key is not None:
        check_key("key", key)
    z1 = jnp.asarray(z1)
    check_shape("z1", z1, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_condition(x, z1.shape[0])
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    return _log_prob(flow, z1, x, key, divergence, integrator, batch_size)


class _Augmented(eqx.Module):
    """The velocity, with its divergence for one more state."""

    flow: Flow
    divergence: AbstractDivergence
    tangents: PyTree

    def __call__(self, t: Time, state: tuple[Point, Scalar], x: PyTree) -> tuple[Point, Scalar]:
        def velocity(z: Point) -> Point:
            return self.flow.estimate(t, z, x).velocity

        return self.divergence.value_and_divergence(velocity, state[0], self.tangents)


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
        field = _Augmented(flow, divergence, divergence.tangents(z, key=key))
        state = (alpha * z, jnp.zeros((), z.dtype))
        z0, change = integrator.end_point(field, state, x, end, start)
        base = jax.scipy.stats.norm.logpdf(z0, scale=flow.noise_std.astype(z0.dtype)).sum()
        return base + change + z.size * jnp.log(alpha)

    keys = None if key is None else example_keys(key, z1.shape[0])
    return in_batches(one, (z1, x, keys), batch_size)
