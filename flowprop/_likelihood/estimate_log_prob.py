"""The log-likelihood of data with its error and its cost."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._batch import compiled, example_keys, in_batches
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow
from .._solve import AbstractIntegrator, AbstractODEIntegrator, forward_mode_explained, function_evaluations, succeeded
from .._types import Data, Point, PRNGKey, Real, check_number, checked
from .augmented_ode import AugmentedVelocity
from .log_prob import likelihood_integrator, numbers_per_example, solve_to_noise, sum_over_preimages, validated_data


class LogProbEstimate(eqx.Module):
    """Log-likelihoods in nats, and what is known of their errors: of every field one entry for each example.

    - `value`: the log-likelihood; NaN where the solve failed.
    - `probe_error`: its standard error over the random probes; 0 for the exact divergence.
    - `solver_error`: how far it moves under a solver ten times as accurate, or with steps half as long.
    - `function_evaluations`: calls of the network that it took, all stages and rejected steps included.
    - `result`: Diffrax's code, to be compared with those in `diffrax.RESULTS`.
    """

    value: Float[Array, "*batch"]
    probe_error: Float[Array, "*batch"]
    solver_error: Float[Array, "*batch"]
    function_evaluations: Int[Array, "*batch"]
    result: PyTree

    @property
    def error(self) -> Float[Array, "*batch"]:
        """Both errors together, `sqrt(probe_error^2 + solver_error^2)`."""
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
    """The log-likelihood of data, with its standard error, the solver's error, and its cost.

    A stochastic divergence is estimated several times along one and the same solve; the value is the mean,
    and their spread its error. The solver's error is the difference to a second, finer solve with the same
    probes, so that all of it costs about three times [`flowprop.log_prob`][].

    **Arguments:** as of `log_prob`, and

    - `num_estimates`: how many independent estimates a stochastic divergence makes, at least 2.
    - `tolerance`: in nats. If given, a `UserWarning` tells of every larger error (outside of `jit`).

    **Returns:** the [`flowprop.LogProbEstimate`][].

    **Warns:** of errors above `tolerance` and, always, of a solve that failed.

    **Raises:** as `log_prob`, and `ValueError` for fewer than two estimates, a tolerance that is not positive,
    or an integrator of which no finer one is known.
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
    with forward_mode_explained():
        estimate, failed = _estimate(flow, z1, x, key, divergence, num_estimates, ode, ode.refined(), batch_size)
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
) -> tuple[LogProbEstimate, Bool[Array, " batch"]]:
    def one(data: Point, x: PyTree, key: PRNGKey | None) -> tuple[LogProbEstimate, Bool[Array, ""]]:
        def density(z: Point, features: PyTree, key: PRNGKey | None) -> tuple[PyTree, Float[Array, "solves estimates"]]:
            field = AugmentedVelocity(flow, divergence, z, key=key, num_estimates=num_estimates)
            solution, values = solve_to_noise(flow, field, z, features, integrator)
            fine_solution, fine = solve_to_noise(flow, field, z, features, finer)
            calls = function_evaluations(solution, integrator)
            return (calls, solution.result, succeeded(solution), succeeded(fine_solution)), jnp.stack([values, fine])

        (calls, result, good, fine_good), (values, fine) = sum_over_preimages(flow, data, x, key, density)
        spread = jnp.std(values, ddof=1) / num_estimates**0.5 if num_estimates > 1 else jnp.zeros_like(values[0])
        # Outside of the support both are minus infinity, and there is no error.
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
    return in_batches(one, (z1, x, keys), batch_size, numbers_per_example=numbers)


def _warn(estimate: LogProbEstimate, failed: Bool[Array, " batch"], tolerance: Real | None) -> None:
    if failed.any():
        warnings.warn(
            f"{int(failed.sum())} of {failed.size} solves failed, their log-likelihoods are NaN: see `result`, and "
            "give `integrator` more `max_steps`",
            stacklevel=3,
        )
    if tolerance is None:
        return
    large = ~(estimate.error <= tolerance) & ~failed
    if large.any():
        worst = jnp.nanargmax(estimate.error)
        warnings.warn(
            f"{int(large.sum())} of {large.size} log-likelihoods have an error above `tolerance`, {tolerance} nats; at "
            f"worst {estimate.probe_error[worst]:.2g} from probes (more `num_estimates` or another `divergence` lower "
            f"it) and {estimate.solver_error[worst]:.2g} from the solver (smaller `rtol` and `atol` do)",
            stacklevel=3,
        )
