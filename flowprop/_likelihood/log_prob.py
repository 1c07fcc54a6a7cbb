"""The log-likelihood of data under a flow."""

import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from .._batch import example_keys, in_batches, in_buckets
from .._devices import compiled, row_sharding
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow, check_condition
from .._flow.network import solve_dtype
from .._flow.noise import noise_log_prob
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
    """Compute the log-likelihood of data under a flow: the exact pushforward of the noise N(0, I) by the ODE.

    `log p(z_1) = log N(z(0); 0, I) - int_0^1 div v dt + d log alpha(1)`
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8). The ODE is solved from `alpha(1) z_1` back to noise.
    If the noise schedule leaves noise on the data, so that `alpha(1) < 1`, the result is the density of slightly noised
    data. The log-determinant of the flow's transform is added, so that the density is that of the data in their own
    units.

    **Arguments:**

    - `flow`: the flow.
    - `z1`: a batch of data in their own units, `(n, *shape)`. A row with NaN or infinity has the result NaN.
    - `x`: the conditions (context), one for each row; each leaf has the batch axis first. By default none.
    - `key`: the random key for a stochastic divergence, and for a transform that draws noise. By default none.
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: an integrator that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer
      large ones, so that their states, with the products of the divergence, hold at most 2^24 numbers.
    - `throw`: whether a solve that fails raises an error. If not, its row is NaN. By default `True`.

    **Returns:** log-densities in nats, `(n,)`; `-inf` outside of the support of the flow's transform.

    **Raises:** `TypeError` for an integrator without a likelihood, such as an SDE, or for integers `z1` if the flow has
    no transform; `ValueError` if `z1` or `x` has the wrong shape, or if a key is needed and missing;
    `RuntimeError` if a solve fails and `throw` is true.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    log_density = fp.log_prob(flow, jnp.zeros((3, 2)))
    print(log_density.shape)  # (3,)
    print(f"{log_density[0]:.3f}")  # -2.038
    print(f"{-jnp.log(2 * jnp.pi) - 2 * 0.1:.3f}")  # -2.038
    ```
    """
    divergence = ExactDivergence() if divergence is None else divergence
    z1 = validated_data(flow, z1, x, key, batch_size)
    ode = likelihood_integrator(integrator)
    rows = row_sharding(flow, z1, x)

    def compute(_: int, z1: Array, x: PyTree) -> tuple[Array, Array]:
        return _log_prob(flow, z1, x, key, divergence, ode, batch_size, rows=rows)

    with forward_mode_explained():
        values, failed = in_buckets(compute, z1.shape[0], (z1, x), rows, flow, key)
    return settled(values, failed, throw=throw)


def likelihood_integrator(integrator: AbstractIntegrator | None) -> AbstractODEIntegrator:
    """Return the given integrator or the default one, or raise a `TypeError` if it has no likelihood."""
    integrator = ODEIntegrator() if integrator is None else integrator
    if not integrator.has_likelihood:
        raise TypeError(f"`integrator` is {type(integrator).__name__}: a likelihood needs the ODE, `fp.ODEIntegrator`")
    return cast(AbstractODEIntegrator, integrator)


def numbers_per_example(flow: Flow, divergence: AbstractDivergence, num_estimates: int = 1) -> int:
    """How many numbers a solve of one example holds: its state, and the products of its divergence.

    `in_batches` chooses its batch size from this number.
    """
    size = math.prod(flow.shape)
    return size * (1 + num_estimates * min(size, divergence.max_products))


def validated_data(flow: Flow, z1: Data, x: PyTree, key: PRNGKey | None, batch_size: int | None) -> Array:
    """Check `z1`, `x`, `key` and `batch_size`, and return `z1` as an array in the precision of the solve."""
    z1 = jnp.asarray(z1)
    check_shape("z1", z1, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_condition(x, z1.shape[0])
    if key is not None:
        check_key("key", key)
    check_positive(batch_size=batch_size)
    if jnp.issubdtype(z1.dtype, jnp.floating):
        return z1.astype(solve_dtype(flow.network, z1))
    if flow.transform.is_identity:
        raise TypeError(f"`z1` holds {z1.dtype} numbers where floating-point ones are needed: `.astype(float)`")
    return z1


def sum_over_preimages(
    flow: Flow,
    data: Array,
    x: PyTree,
    key: PRNGKey | None,
    density: Callable[[Point, PyTree, PRNGKey | None], tuple[PyTree, Float[Array, "*estimates"]]],
) -> tuple[PyTree, Float[Array, "*estimates"]]:
    """Compute `log p(data) = logsumexp_j (log q(z_j) + w_j)` over the preimages `z_j` of `data` under the transform.

    A preimage is a point in path coordinates. A bijection has one preimage, and `w` is its log-determinant.

    **Arguments:**

    - `flow`: the flow.
    - `data`: one example in its own units.
    - `x`: its condition.
    - `key`: the random key of the preimages and of the probes, or `None`.
    - `density`: a function of `(z, features, key)` that returns the record of a solve and one or several estimates of
      `log q(z)`.

    **Returns:** the records, with the preimages along the first axis, and `log p(data)`, which is NaN if `data` or `x`
    is not finite.
    """
    key_data, key_probes = (None, None) if key is None else jax.random.split(key)
    good = is_finite(data, x)
    data, x = zeros_unless(good, (data, x))
    features = flow.encode(x)
    points, log_weights = flow.transform.preimages(data, key=key_data)
    # Outside of the support the result is -inf. The solve of a zero point in its place is easy, and has gradient 0.
    points = jax.vmap(zeros_unless)(log_weights > -jnp.inf, points)
    if flow.transform.is_bijective:
        record, log_prob = density(points[0], features, key_probes)
        return jax.tree.map(lambda leaf: leaf[None], record), nan_unless(good, log_prob + log_weights[0])
    # All preimages of one example use the same probes.
    record, log_probs = jax.vmap(lambda z: density(z, features, key_probes))(points)
    total = log_sum_over_preimages
    for _ in range(log_probs.ndim - 1):
        total = jax.vmap(total, in_axes=(1, None))
    return record, nan_unless(good, total(log_probs, log_weights))


def solve_to_noise(
    flow: Flow, field: AugmentedVelocity, z: Point, features: PyTree, integrator: AbstractODEIntegrator
) -> tuple[PyTree, Float[Array, " estimates"]]:
    """Solve from one point in path coordinates back to noise. Return the solution and the estimates of `log q(z)`."""
    start, end = flow.span
    alpha = flow.path.alpha(jnp.asarray(end, z.dtype))
    solution = integrator.integrate_field(field, field.start(alpha * z), features, end, start, throw=False)
    z0, change = final_state(solution)
    return solution, noise_log_prob(flow, z0) + change + z.size * jnp.log(alpha)


@compiled
def _log_prob(
    flow: Flow,
    z1: Array,
    x: PyTree,
    key: PRNGKey | None,
    divergence: AbstractDivergence,
    integrator: AbstractODEIntegrator,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> tuple[Array, Array]:
    def one(data: Array, x: PyTree, key: PRNGKey | None) -> tuple[Scalar, Bool[Array, ""]]:
        def density(z: Point, features: PyTree, key: PRNGKey | None) -> tuple[Bool[Array, ""], Scalar]:
            field = AugmentedVelocity(flow, divergence, z, key=key)
            solution, log_probs = solve_to_noise(flow, field, z, features, integrator)
            return succeeded(solution), log_probs[0]

        good, value = sum_over_preimages(flow, data, x, key, density)
        return value, ~jnp.all(good)

    keys = None if key is None else example_keys(key, z1.shape[0])
    numbers = numbers_per_example(flow, divergence)
    return in_batches(one, (z1, x, keys), batch_size, numbers_per_example=numbers, rows=rows)
