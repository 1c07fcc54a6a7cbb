"""Samples together with their log-likelihoods in one solve."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from .._batch import example_keys, in_batches, in_buckets
from .._devices import compiled, draw_sharding, on_devices_of
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.checks import check_draws
from .._flow.flow import Flow
from .._flow.noise import noise_log_prob
from .._rows import is_finite, nan_unless, settled, zeros_unless
from .._solve import AbstractIntegrator, AbstractODEIntegrator, final_state, forward_mode_explained, succeeded
from .._solve.sample import sample
from .._types import Point, PRNGKey, Scalar, checked
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
    out_sharding: NamedSharding | None = None,
) -> tuple[Shaped[Array, "num_samples *shape"], Float[Array, " num_samples"]]:
    """Draw samples from a flow and compute the log-density of each, in one solve from noise to data.

    `log p(z_1) = log N(z_0; 0, I) - int_0^1 div v dt + d log alpha(1)`
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8). The samples are those of [`flowprop.sample`][] with
    the same key, with two exceptions. If the flow's span ends before time 1, `sample` completes the path with an
    estimate of the target. This function returns the end of the ODE instead, whose density is known. If the flow's
    transform is not a bijection, the samples come from another key, and the log-densities from a second solve, that of
    [`flowprop.log_prob`][].

    **Arguments:**

    - `flow`: the flow.
    - `num_samples`: how many samples to draw.
    - `x`: the conditions (context), one for each sample; each leaf has the batch axis first. A sample whose condition
      contains NaN or infinity is NaN. By default none.
    - `key`: the random key of the noise, and of a stochastic divergence.
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: an integrator that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer
      large ones, so that their states, with the products of the divergence, hold at most 2^24 numbers.
    - `throw`: whether a solve that fails raises an error. If not, its row is NaN. By default `True`.
    - `out_sharding`: how the samples are spread over devices: a `NamedSharding` that splits their first axis, such as
      `NamedSharding(mesh, PartitionSpec("rows"))`. Each device then draws its own samples. By default as `x` is spread.

    **Returns:** samples in the units of the data, `(num_samples, *shape)`, and their log-densities in nats,
    `(num_samples,)`.

    **Raises:** `TypeError` for an integrator without a likelihood, such as an SDE; `ValueError` if a leaf of `x` has
    another batch size, if `num_samples` or `batch_size` is not positive, or if `out_sharding` cannot split the samples;
    `RuntimeError` if a solve fails and `throw` is true.

    ```python
    import diffrax as dfx
    import jax
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    key = jax.random.key(0)
    samples, log_prob = fp.sample_and_log_prob(flow, 5, key=key, integrator=heun)
    print(samples.shape, log_prob.shape)  # (5, 2) (5,)
    ```
    """
    divergence = ExactDivergence() if divergence is None else divergence
    check_draws("num_samples", num_samples, x, key, batch_size)
    ode = likelihood_integrator(integrator)
    rows, key = draw_sharding("num_samples", num_samples, flow, x, out_sharding), on_devices_of(out_sharding, key)
    if flow.transform.is_bijective:

        def compute(count: int, x: PyTree) -> tuple[Array, Array, Array]:
            return _sample_and_log_prob(flow, count, x, key, divergence, ode, batch_size, rows=rows)

        with forward_mode_explained():
            points, log_probs, failed = in_buckets(compute, num_samples, (x,), rows, flow, key)
        return settled(points, failed, throw=throw), settled(log_probs, failed, throw=throw)
    key_samples, key_density = jax.random.split(key)
    points = sample(
        flow,
        num_samples,
        x,
        key=key_samples,
        integrator=ode,
        batch_size=batch_size,
        throw=throw,
        out_sharding=out_sharding,
    )
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
    *,
    rows: NamedSharding | None,
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
        value = noise_log_prob(flow, z0) - change[0] + z0.size * jnp.log(alpha) + log_det
        return nan_unless(good, data), nan_unless(good, value), ~succeeded(solution)

    numbers = numbers_per_example(flow, divergence)
    return in_batches(one, (example_keys(key, num_samples), x), batch_size, numbers_per_example=numbers, rows=rows)
