"""Log-likelihoods with estimates of their errors and their cost."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._batch import example_keys, in_batches, in_buckets
from .._devices import compiled, row_sharding
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow
from .._solve import AbstractIntegrator, AbstractODEIntegrator, forward_mode_explained, function_evaluations, succeeded
from .._types import Data, Point, PRNGKey, Real, check_number, checked
from .augmented_ode import AugmentedVelocity
from .log_prob import likelihood_integrator, numbers_per_example, solve_to_noise, sum_over_preimages, validated_data


class LogProbEstimate(eqx.Module):
    """Log-likelihoods in nats with estimates of their errors. Every field has one entry for each example.

    **Fields:**

    - `value`: the log-likelihood in nats, `(n,)`; NaN if the solve failed.
    - `probe_error`: the standard error of `value` over the random probes, `(n,)`; 0 for the exact divergence.
    - `solver_error`: the absolute change of `value` with a solver ten times as accurate, or with steps half as long,
      `(n,)`; NaN if that solve failed.
    - `function_evaluations`: how often the solve called the network, including all stages and rejected steps, `(n,)`.
    - `result`: Diffrax's result code, to compare with the codes in `diffrax.RESULTS`.

    ```python
    import diffrax as dfx
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    estimate = fp.estimate_log_prob(flow, jnp.zeros((3, 2)), integrator=heun)
    print(estimate.probe_error)  # [0. 0. 0.]
    print(estimate.function_evaluations)  # [20 20 20]
    print((estimate.result == dfx.RESULTS.successful).all())  # True
    ```
    """

    value: Float[Array, "*batch"]
    probe_error: Float[Array, "*batch"]
    solver_error: Float[Array, "*batch"]
    function_evaluations: Int[Array, "*batch"]
    result: PyTree

    @property
    def error(self) -> Float[Array, "*batch"]:
        """Both errors combined, `sqrt(probe_error^2 + solver_error^2)`, in nats, `(n,)`."""
        return jnp.hypot(self.probe_error, self.solver_error)


@checked
def estimate_log_prob(
    flow: Flow,
    z1: Data,
    x: PyTree = None,
    *,
    key: PRNGKey | None = None,
    divergence: AbstractDivergence | None = None,
    num_estimates: int = 8,
    tolerance: Real | None = None,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> LogProbEstimate:
    """Compute the log-likelihood of data with its standard error, the error of the solver, and its cost.

    The log-likelihood is that of [`flowprop.log_prob`][]
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8). With a stochastic divergence several independent
    estimates share one solve: `value` is their mean, and `probe_error` is the standard error of this mean. The error of
    the solver is the difference to a second, more accurate solve with the same probes. All of this costs about three
    times as much as `log_prob`.

    **Arguments:**

    - `flow`: the flow.
    - `z1`: a batch of data in their own units, `(n, *shape)`. A row with NaN or infinity has the result NaN.
    - `x`: the conditions (context), one for each row; each leaf has the batch axis first. By default none.
    - `key`: the random key for a stochastic divergence, and for a transform that draws noise. By default none.
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`.
    - `num_estimates`: how many independent estimates to make with a stochastic divergence, at least 2. By default 8.
    - `tolerance`: an error in nats. If it is given, a `UserWarning` reports larger errors (not inside `jax.jit`). By
      default none.
    - `integrator`: an integrator that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer
      large ones, so that their states, with the products of the divergence, hold at most 2^24 numbers.

    **Returns:** a [`flowprop.LogProbEstimate`][].

    **Warns:** a `UserWarning` if errors are above `tolerance`, and always if a solve failed (not inside `jax.jit`).

    **Raises:** `TypeError` for an integrator without a likelihood, such as an SDE, or for integers `z1` if the flow has
    no transform; `ValueError` if `z1` or `x` has the wrong shape, if a key is needed and missing,
    if `num_estimates` is below 2 or `tolerance` is not positive, or if no more accurate version of the integrator can
    be built.

    ```python
    import diffrax as dfx
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    matrix = jnp.array([[0.3, 0.8], [0.1, -0.2]])
    flow = fp.fm_flow(lambda t, z, x: matrix @ z, shape=(2,))
    estimate = fp.estimate_log_prob(
        flow,
        jnp.zeros((4, 2)),
        key=jax.random.key(0),
        divergence=fp.HutchinsonDivergence(),
        integrator=fp.ODEIntegrator(dfx.Heun(), dt0=0.1),
    )
    print(estimate.value.shape, bool((estimate.probe_error > 0).all()))  # (4,) True
    ```
    """
    divergence = ExactDivergence() if divergence is None else divergence
    if divergence.is_exact:
        num_estimates = 1
    elif num_estimates < 2:
        raise ValueError(f"`num_estimates` is {num_estimates}: a standard error needs at least 2")
    if tolerance is not None:
        check_number("tolerance", tolerance, above=0, remedy="give a positive error in nats, or None")
    z1 = validated_data(flow, z1, x, key, batch_size)
    ode = likelihood_integrator(integrator)
    rows, fine = row_sharding(flow, z1, x), ode.refined()

    def compute(_: int, z1: Array, x: PyTree) -> tuple[LogProbEstimate, Bool[Array, " batch"]]:
        return _estimate(flow, z1, x, key, divergence, num_estimates, ode, fine, batch_size, rows=rows)

    with forward_mode_explained():
        estimate, failed = in_buckets(compute, z1.shape[0], (z1, x), rows, flow, key)
    if not isinstance(estimate.value, jax.core.Tracer):
        _warn(estimate, failed, tolerance)
    return estimate


@compiled
def _estimate(
    flow: Flow,
    z1: Array,
    x: PyTree,
    key: PRNGKey | None,
    divergence: AbstractDivergence,
    num_estimates: int,
    integrator: AbstractODEIntegrator,
    finer: AbstractODEIntegrator,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> tuple[LogProbEstimate, Bool[Array, " batch"]]:
    def one(data: Array, x: PyTree, key: PRNGKey | None) -> tuple[LogProbEstimate, Bool[Array, ""]]:
        def density(z: Point, features: PyTree, key: PRNGKey | None) -> tuple[PyTree, Float[Array, "solves estimates"]]:
            field = AugmentedVelocity(flow, divergence, z, key=key, num_estimates=num_estimates)
            solution, values = solve_to_noise(flow, field, z, features, integrator)
            fine_solution, fine = solve_to_noise(flow, field, z, features, finer)
            calls = function_evaluations(solution, integrator)
            return (calls, solution.result, succeeded(solution), succeeded(fine_solution)), jnp.stack([values, fine])

        (calls, result, good, fine_good), (values, fine) = sum_over_preimages(flow, data, x, key, density)
        spread = jnp.std(values, ddof=1) / num_estimates**0.5 if num_estimates > 1 else jnp.zeros_like(values[0])
        # Outside of the support both values are minus infinity, and the error is 0.
        difference = jnp.where(jnp.isneginf(jnp.mean(values)), 0, jnp.abs(jnp.mean(values - fine)))
        worst = jnp.argmin(good)
        estimate = LogProbEstimate(
            jnp.where(jnp.all(good), jnp.mean(values), jnp.nan),
            spread,
            jnp.where(jnp.all(fine_good), difference, jnp.nan),
            jnp.sum(calls),
            jax.tree.map(lambda leaf: leaf[worst], result),
        )
        return estimate, ~jnp.all(good)

    keys = None if key is None else example_keys(key, z1.shape[0])
    numbers = numbers_per_example(flow, divergence, num_estimates)
    return in_batches(one, (z1, x, keys), batch_size, numbers_per_example=numbers, rows=rows)


def _warn(estimate: LogProbEstimate, failed: Bool[Array, " batch"], tolerance: Real | None) -> None:
    if failed.any():
        warnings.warn(
            f"{int(failed.sum())} of {failed.size} solves failed, and their log-likelihoods are NaN: see `result`, and "
            "give `integrator` a larger `max_steps`",
            stacklevel=3,
        )
    if tolerance is None:
        return
    large = ~(estimate.error <= tolerance) & ~failed
    if large.any():
        worst = jnp.nanargmax(estimate.error)
        warnings.warn(
            f"{int(large.sum())} of {large.size} log-likelihoods have an error above `tolerance`, {tolerance} nats. "
            f"The largest is {estimate.probe_error[worst]:.2g} from probes (increase `num_estimates` or use another "
            f"`divergence`) and {estimate.solver_error[worst]:.2g} from the solver (reduce `rtol` and `atol`)",
            stacklevel=3,
        )
