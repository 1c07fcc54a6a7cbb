"""Samples together with their log-likelihoods, in one solve."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from .._batch import compiled, example_keys, in_batches
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow, check_condition
from .._rows import is_finite, nan_unless, settled, zeros_unless
from .._solve import AbstractIntegrator, AbstractODEIntegrator, final_state, forward_mode_explained, succeeded
from .._solve.sample import sample
from .._types import Point, PRNGKey, Scalar, check_key, check_positive, checked
from .augmented_ode import AugmentedVelocity
from .log_prob import likelihood_integrator, log_prob, numbers_per_example


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
    throw: bool = True,
) -> tuple[Shaped[Array, "num_samples *shape"], Float[Array, " num_samples"]]:
    """Draw from a flow, and the log-density of each draw, in one solve from noise to data.

    `log p(z_1) = log N(z_0; 0, I) - int_0^1 div v dt + d log alpha(1)`
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8). The samples are
    those of [`flowprop.sample`][] under the same key. (If a flow's span ends before 1, `sample` goes on by one
    estimate of the target; what comes from here is the end of the ODE, whose density is known.) A transform that is
    no bijection costs a second solve, that of [`flowprop.log_prob`][].

    **Arguments:**

    - `flow`: the flow.
    - `num_samples`: how many.
    - `x`: the conditions, one for each sample; each leaf carries the batch axis. A sample whose condition holds NaN or
      infinity is NaN.
    - `key`: for the noise, and for a stochastic divergence.
    - `divergence`: by default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: one that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many are solved at once. By default as many as fit into a bounded memory.
    - `throw`: whether a solve that fails is an error. Otherwise its row is NaN.

    **Returns:** samples in the data's units, `(num_samples, *shape)`, and their log-densities in nats,
    `(num_samples,)`.

    **Raises:** `TypeError` for an SDE; `ValueError` if a leaf of `x` has another batch size or `num_samples` is
    not positive; `RuntimeError` if a solve fails.
    """
    divergence = ExactDivergence() if divergence is None else divergence
    check_key("key", key)
    check_positive(num_samples=num_samples, batch_size=batch_size)
    check_condition(x, num_samples)
    ode = likelihood_integrator(integrator)
    if flow.transform.is_bijective:
        with forward_mode_explained():
            points, log_probs, failed = _sample_and_log_prob(flow, num_samples, x, key, divergence, ode, batch_size)
        return settled(points, failed, throw=throw), settled(log_probs, failed, throw=throw)
    key_samples, key_density = jax.random.split(key)
    points = sample(flow, num_samples, x, key=key_samples, integrator=ode, batch_size=batch_size, throw=throw)
    log_probs = log_prob(
        flow, points, x, key=key_density, divergence=divergence, integrator=ode, batch_size=batch_size, throw=throw
    )
    return points, log_probs


@compiled
def _sample_and_log_prob(
    flow: Flow,
    num_samples: int,
    x: PyTree,
    key: PRNGKey,
    divergence: AbstractDivergence,
    integrator: AbstractODEIntegrator,
    batch_size: int | None,
) -> tuple[Array, Array, Array]:
    start, end = flow.span

    def one(key: PRNGKey, x: PyTree) -> tuple[Point, Scalar, Bool[Array, ""]]:
        key_noise, key_probes = jax.random.split(key)
        good = is_finite(x)
        features = flow.encode(zeros_unless(good, x))
        z0 = flow.draw_noise(key=key_noise)
        field = AugmentedVelocity(flow, divergence, z0, key=key_probes)
        solution = integrator.integrate_field(field, field.start(z0), features, start, end, throw=False)
        z1, change = final_state(solution)
        alpha = flow.path.alpha(jnp.asarray(end, z0.dtype))
        data, log_det = flow.transform.inverse_and_log_det(z1 / alpha)
        value = flow.noise_log_prob(z0) - change[0] + z0.size * jnp.log(alpha) + log_det
        return nan_unless(good, data), nan_unless(good, value), ~succeeded(solution)

    numbers = numbers_per_example(flow, divergence)
    return in_batches(one, (example_keys(key, num_samples), x), batch_size, numbers_per_example=numbers)
