"""Log-likelihoods with estimates of their errors: the estimates agree with the true errors."""

import warnings

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


FLOW = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["ct sigmoid"]())
# In two dimensions entries +1 or -1 give only two values. The estimates of these probes are nearly normal.
PROBES = fp.HutchinsonDivergence(8, fp.GaussianProbes())
LOOSE = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-3))


def points(n=200):
    return jax.random.normal(jax.random.key(1), (n, 2))


def truth(z):
    return exact.gaussian_log_prob(z, *exact.pushforward_moments(FLOW, exact.GAUSSIAN))


@pytest.fixture(scope="module")
def by_probes():
    """With 8 estimates."""
    return fp.estimate_log_prob(FLOW, points(), key=jax.random.key(2), divergence=PROBES)


def test_the_standard_error_is_that_of_the_estimate(by_probes):
    """Errors divided by their standard errors have Student's t distribution with 7 degrees of freedom, variance 7/5.

    The mean square of 200 such ratios has a standard error of 0.3 (kurtosis 5): 0.75 allows 2.5 standard errors.
    """
    ratios = (np.asarray(by_probes.value) - truth(points())) / np.asarray(by_probes.probe_error)
    assert abs(np.mean(ratios)) < 4 * (7 / 5 / 200) ** 0.5
    assert abs(np.mean(ratios**2) - 7 / 5) < 0.75


class Counting(eqx.Module):
    """A network that counts its calls on the host."""

    network: exact.Denoiser
    count: list = eqx.field(static=True)

    def __call__(self, t, z, x=None):
        jax.debug.callback(lambda: self.count.append(None))
        return self.network(t, z, x)


def test_evaluations_are_the_calls_of_the_network(key):
    """All 8 estimates share the calls: 20 in ten steps of Heun, and 40 in the more accurate solve."""
    counting = eqx.tree_at(lambda flow: flow.network, FLOW, Counting(FLOW.network, []))
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    estimate = fp.estimate_log_prob(counting, points(1), key=key, divergence=PROBES, integrator=heun)
    jax.effects_barrier()
    np.testing.assert_array_equal(estimate.function_evaluations, [20])
    assert len(counting.network.count) == 20 + 40


def test_each_solve_has_its_own_count_and_result(by_probes):
    counted = np.asarray(by_probes.function_evaluations)
    assert np.all((counted - 1) % 6 == 0)  # Tsit5's
    assert len(set(counted)) > 1
    assert bool(jnp.all(by_probes.result == dfx.RESULTS.successful))


@pytest.mark.parametrize(
    ("integrator", "span"),
    [
        pytest.param(LOOSE, (0.2, 5.0), marks=pytest.mark.slow),
        (fp.ODEIntegrator(dfx.Heun(), dt0=0.02), (0.5, 1.2)),
    ],
    ids=["adaptive", "constant"],
)
def test_the_solvers_error_is_estimated(integrator, span, x64):
    """In double precision, over 200 points: its root mean square agrees with that of the true error within a factor.

    With half the step size Heun has a quarter of the error, so that the difference is 3/4 of the error.
    """
    z = points().astype(float)
    estimate = fp.estimate_log_prob(FLOW, z, integrator=integrator)
    np.testing.assert_array_equal(estimate.probe_error, 0.0)
    np.testing.assert_array_equal(estimate.error, estimate.solver_error)
    np.testing.assert_allclose(estimate.value, fp.log_prob(FLOW, z, integrator=integrator), rtol=1e-12)
    made = np.sqrt(np.mean((estimate.value - truth(z)) ** 2))
    stated = np.sqrt(np.mean(estimate.solver_error**2))
    assert made > 1e-4  # the solver must make an error that can be estimated
    assert span[0] < stated / made < span[1]


@pytest.mark.slow
def test_more_estimates_lower_the_error(by_probes):
    many = fp.estimate_log_prob(FLOW, points(), key=jax.random.key(3), divergence=PROBES, num_estimates=32)
    # The ratio is one half. A mean over 200 points is accurate to 2 %; the standard deviation of 8 is 3.5 % too small.
    assert 0.46 < float(many.probe_error.mean() / by_probes.probe_error.mean()) < 0.57


def test_it_warns_of_errors_above_the_tolerance(by_probes):
    worst = float(by_probes.error.max())

    def estimate(tolerance):
        fp.estimate_log_prob(FLOW, points(), key=jax.random.key(2), divergence=PROBES, tolerance=tolerance)

    with pytest.warns(UserWarning, match="1 of 200 log-likelihoods have an error above `tolerance`"):
        estimate(0.9999 * worst)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate(1.0001 * worst)


def test_it_warns_of_solves_that_failed():
    few = fp.ODEIntegrator(max_steps=3)
    with pytest.warns(UserWarning, match="5 of 5 solves failed"):
        estimate = fp.estimate_log_prob(FLOW, points(5), integrator=few)
    assert np.all(np.isnan(estimate.value))
    assert bool(jnp.all(estimate.result == dfx.RESULTS.max_steps_reached))


@pytest.mark.slow
def test_it_does_not_warn_inside_jit():
    value = eqx.filter_jit(lambda z: fp.estimate_log_prob(FLOW, z, tolerance=1e-9).value)(points(3))
    np.testing.assert_allclose(value, truth(points(3)), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"divergence": fp.HutchinsonDivergence(), "num_estimates": 1}, ValueError, "`num_estimates` is 1"),
        ({"tolerance": 0.0}, ValueError, "`tolerance` is 0.0"),
        ({"divergence": fp.HutchinsonDivergence()}, ValueError, "`key` is None"),
        ({"integrator": fp.SDEIntegrator()}, TypeError, "`integrator` is SDEIntegrator"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(options, error, message):
    with pytest.raises(error, match=message):
        fp.estimate_log_prob(FLOW, points(2), **options)
