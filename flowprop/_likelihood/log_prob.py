"""The log-likelihood of data under a flow."""

import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .._batch import compiled, example_keys, in_batches
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow, check_condition
from .._rows import is_finite, nan_unless, settled, zeros_unless
from .._solve import (
    AbstractIntegrator,
    AbstractODEIntegrator,
    ODEIntegrator,
    final_state,
    forward_mode_explained,
    succeeded,
)
from .._transform import log_sum_over_preimages
from .._types import Data, Point, PRNGKey, Scalar, check_key, check_positive, check_shape, checked
from .augmented_ode import AugmentedVelocity


@checked
def log_prob(
    flow: Flow,
    z1: Data,
    x: PyTree = None,
    *,
    key: PRNGKey | None = None,
    divergence: AbstractDivergence | None = None,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
    throw: bool = True,
) -> Float[Array, " batch"]:
    """The log-likelihood of data under a flow: the exact pushforward of N(0, I) by its ODE.

    `log p(z_1) = log N(z(0); 0, I) - int_0^1 div v dt + d log alpha(1)`
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8), solved from `alpha(1) z_1` back to noise. Where the
    schedule leaves noise on the data, so that `alpha(1) < 1`, it is the density of slightly noised data. The flow's
    transform takes part by its log-determinant: the density is that of the data in their own units.

    **Arguments:**

    - `flow`: the flow.
    - `z1`: a batch of data in their own units, `(n, *shape)`. A row with NaN or infinity has the result NaN.
    - `x`: the conditions; each leaf carries the batch axis.
    - `key`: for a stochastic divergence, and for a transform that draws noise.
    - `divergence`: by default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: one that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many are solved at once. By default as many as fit into a bounded memory.
    - `throw`: whether a solve that fails is an error. Otherwise its row is NaN.

    **Returns:** log-densities in nats, `(n,)`; `-inf` outside of the support of the flow's transform.

    **Raises:** `TypeError` for an SDE, which has no likelihood; `ValueError` if `z1` or `x` has the
    wrong shape or a stochastic divergence comes without a key; `RuntimeError` if a solve fails.
    """
    divergence = ExactDivergence() if divergence is None else divergence
    z1 = validated_data(flow, z1, x, key, batch_size)
    ode = likelihood_integrator(integrator)
    with forward_mode_explained():
        values, failed = _log_prob(flow, z1, x, key, divergence, ode, batch_size)
    return settled(values, failed, throw=throw)


def likelihood_integrator(integrator: AbstractIntegrator | None) -> AbstractODEIntegrator:
    """The integrator asked for, or the default; a `TypeError` if it has no likelihood."""
    integrator = ODEIntegrator() if integrator is None else integrator
    if not integrator.has_likelihood:
        raise TypeError(f"`integrator` is {type(integrator).__name__}: a likelihood needs the ODE, `fp.ODEIntegrator`")
    return cast(AbstractODEIntegrator, integrator)


def numbers_per_example(flow: Flow, divergence: AbstractDivergence, num_estimates: int = 1) -> int:
    """How many numbers the state of one example holds, with the products of its divergence: it bounds a batch."""
    size = math.prod(flow.shape)
    return size * (1 + num_estimates * min(size, divergence.max_products))


def validated_data(flow: Flow, z1: Data, x: PyTree, key: PRNGKey | None, batch_size: int | None) -> Array:
    """`z1` as an array that can be solved, or an error that says what is wrong with it, `x`, `key` or `batch_size`."""
    z1 = jnp.asarray(z1)
    check_shape("z1", z1, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_condition(x, z1.shape[0])
    if key is not None:
        check_key("key", key)
    check_positive(batch_size=batch_size)
    if jnp.issubdtype(z1.dtype, jnp.floating):
        return z1.astype(flow.solve_dtype(z1))
    if flow.transform.is_identity:
        raise TypeError(f"`z1` holds {z1.dtype} numbers where floating-point ones are needed: `.astype(float)`")
    return z1


def sum_over_preimages(
    flow: Flow,
    data: Point,
    x: PyTree,
    key: PRNGKey | None,
    density: Callable[[Point, PyTree, PRNGKey | None], tuple[PyTree, Float[Array, "*estimates"]]],
) -> tuple[PyTree, Float[Array, "*estimates"]]:
    """`log p(data) = logsumexp_j (log q(z_j) + w_j)` over the points of the path's coordinates that stand for `data`.

    A bijection has one such point, and `w` is its log-determinant.

    **Arguments:**

    - `density`: `(z, features, key)` to the solve's record and to one or several estimates of `log q(z)`.

    **Returns:** the records, of each point along a first axis, and `log p(data)`; NaN if `data` or `x` is not finite.
    """
    key_data, key_probes = (None, None) if key is None else jax.random.split(key)
    good = is_finite(data, x)
    data, x = zeros_unless(good, (data, x))
    features = flow.encode(x)
    points, log_weights = flow.transform.preimages(data, key=key_data)
    # Outside of the support the result is known: nothing hard is solved there, and its gradient is 0.
    points = jax.vmap(zeros_unless)(log_weights > -jnp.inf, points)
    if flow.transform.is_bijective:
        record, log_prob = density(points[0], features, key_probes)
        return jax.tree.map(lambda leaf: leaf[None], record), nan_unless(good, log_prob + log_weights[0])
    # The probes are the same for all points that stand for one example.
    record, log_probs = jax.vmap(lambda z: density(z, features, key_probes))(points)
    total = log_sum_over_preimages
    for _ in range(log_probs.ndim - 1):
        total = jax.vmap(total, in_axes=(1, None))
    return record, nan_unless(good, total(log_probs, log_weights))


def solve_to_noise(
    flow: Flow, field: AugmentedVelocity, z: Point, features: PyTree, integrator: AbstractODEIntegrator
) -> tuple[PyTree, Float[Array, " estimates"]]:
    """The solve from data back to noise at one point of the path's coordinates, and the estimates of `log q(z)`."""
    start, end = flow.span
    alpha = flow.path.alpha(jnp.asarray(end, z.dtype))
    solution = integrator.integrate_field(field, field.start(alpha * z), features, end, start, throw=False)
    z0, change = final_state(solution)
    return solution, flow.noise_log_prob(z0) + change + z.size * jnp.log(alpha)


@compiled
def _log_prob(
    flow: Flow,
    z1: Array,
    x: PyTree,
    key: PRNGKey | None,
    divergence: AbstractDivergence,
    integrator: AbstractODEIntegrator,
    batch_size: int | None,
) -> tuple[Array, Array]:
    def one(data: Point, x: PyTree, key: PRNGKey | None) -> tuple[Scalar, Bool[Array, ""]]:
        def density(z: Point, features: PyTree, key: PRNGKey | None) -> tuple[Bool[Array, ""], Scalar]:
            field = AugmentedVelocity(flow, divergence, z, key=key)
            solution, log_probs = solve_to_noise(flow, field, z, features, integrator)
            return succeeded(solution), log_probs[0]

        good, value = sum_over_preimages(flow, data, x, key, density)
        return value, ~jnp.all(good)

    keys = None if key is None else example_keys(key, z1.shape[0])
    return in_batches(one, (z1, x, keys), batch_size, numbers_per_example=numbers_per_example(flow, divergence))
