"""A flow along another path, compared with the exact flow on that path."""

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_but

import flowprop as fp


NEW_PATHS = {
    "condot": lambda: fp.CondOTPath(),
    "sigmoid": lambda: fp.VPPath(fp.SigmoidNoiseSchedule(15)),
    "cosine": lambda: fp.VPPath(fp.CosineNoiseSchedule()),
    "cauchy": lambda: fp.VPPath(fp.CauchyNoiseSchedule()),
    "trigonometric": fp.trigonometric_path,
    "polynomial": lambda: fp.polynomial_path(2),
    "exploding": fp.variance_exploding_path,
}
TIGHT = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-8, atol=1e-8), dt0=1e-3)


# Every pair crosses over to the other kind of path, some stay.
ACROSS = [(pair, "sigmoid" if "condot" in pair or pair == "fm" else "condot") for pair in exact.PAIRS]
WITHIN = [("ct sigmoid", "cosine"), ("condot target", "condot")]
# To and from the paths of two functions and the unbounded schedules.
AFFINE = [("fm", "trigonometric"), ("fm", "exploding"), ("ct sigmoid", "cauchy"), ("condot noise", "polynomial")]
AFFINE += [(pair, "condot") for pair in exact.MORE_PAIRS]
PAIRS = exact.PAIRS | exact.MORE_PAIRS


@eqx.filter_jit
def views(flow, times, z):
    """Target, noise and velocity, a row for each time."""
    return jax.vmap(flow.estimate)(times, z)


def changed_and_direct(pair, name, data):
    """The estimates of a changed flow, and of the exact flow on the new path, inside the span of both."""
    path = NEW_PATHS[name]()
    changed = fp.change_path(exact.exact_flow(data, *PAIRS[pair]()), path)
    start, end = changed.span
    times = start + (end - start) * jnp.linspace(0.03, 0.97, 6)
    z = jax.random.normal(jax.random.key(1), (6, 2), times.dtype)
    direct = exact.exact_flow(data, path, fp.PreconditionedPrediction(0.7))
    return views(changed, times, z), views(direct, times, z)


QUICK = [ACROSS[0], ACROSS[1], ("condot target", "sigmoid"), WITHIN[0], *AFFINE]


@pytest.mark.parametrize(("pair", "name"), all_but(QUICK, ACROSS + WITHIN + AFFINE))
def test_all_views_are_those_of_the_flow_on_the_new_path(pair, name, x64):
    for data in (exact.GAUSSIAN, exact.MIXTURE):
        for value, wanted in zip(*changed_and_direct(pair, name, data), strict=True):
            assert value.dtype == jnp.float64
            np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("pair", "name"), [("fm", "sigmoid"), ("ct sigmoid", "condot")])
def test_single_precision(pair, name):
    for value, wanted in zip(*changed_and_direct(pair, name, exact.MIXTURE), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


def test_the_score_is_that_of_the_new_marginal(key, x64):
    flow, path = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["fm"]()), NEW_PATHS["sigmoid"]()
    z = jax.random.normal(key, (2,))
    alpha, sigma = float(path.alpha(0.3)), float(path.sigma(0.3))
    covariance = alpha**2 * exact.GAUSSIAN.covariance + sigma**2 * np.eye(2)
    wanted = -np.linalg.solve(covariance, z - alpha * exact.GAUSSIAN.mean)
    np.testing.assert_allclose(eqx.filter_jit(fp.change_path(flow, path).score)(0.3, z), wanted, rtol=1e-9)


def log_prob_and_that_before(pair, path, key):
    """The log-density of a Gaussian's flow, and that before the change in closed form."""
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS[pair]())
    z = exact.GAUSSIAN.mean[None] + jax.random.normal(key, (5, 2))
    before = exact.gaussian_log_prob(z, *exact.pushforward_moments(flow, exact.GAUSSIAN))
    return fp.log_prob(fp.change_path(flow, path), z, integrator=TIGHT), before


def test_a_path_with_a_wider_range_keeps_the_likelihood(key, x64):
    """For any distance of the old path from pure noise and clean data: the new path is cut to the old range."""
    np.testing.assert_allclose(*log_prob_and_that_before("ct narrow", fp.CondOTPath(), key), atol=1e-6)


def test_a_wide_schedule_nearly_keeps_it(key, x64):
    """CondOT has all log-SNRs, the schedule has -13 to 13: noise of standard deviation exp(-6.5) is left."""
    after, before = log_prob_and_that_before("fm", fp.VPPath(fp.SigmoidNoiseSchedule(26)), key)
    np.testing.assert_allclose(after, before, atol=0.02)
    assert np.abs(after - before).max() > 1e-6


def test_the_span_is_what_both_paths_have():
    narrow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["ct narrow"]())  # a log-SNR from -2 to 2
    assert fp.change_path(narrow, narrow.path).span == (0, 1)
    # On CondOT the log-SNR is 2 at t = sigmoid(1).
    ends = fp.change_path(narrow, fp.CondOTPath()).span
    np.testing.assert_allclose(ends, [1 / (1 + np.e), np.e / (1 + np.e)], atol=1e-6)
    ends = fp.change_path(narrow, fp.VPPath(fp.SigmoidNoiseSchedule(16))).span
    np.testing.assert_allclose(ends, [0.5 - 2 / 16, 0.5 + 2 / 16], atol=1e-6)
    high = fp.LearnableNoiseSchedule((4,), (3.0, 6.0), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"no log-SNR in common with the flow, whose log-SNRs are from -2 to 2"):
        fp.change_path(narrow, fp.VPPath(high))


def test_conditions_pass_through(key):
    """For a categorical flow, whose condition is the pair of features and class embeddings."""
    old, new = fp.VPPath(fp.SigmoidNoiseSchedule(9)), fp.VPPath(fp.CosineNoiseSchedule())
    flow, direct = (fp.Flow(exact.Posterior(path), path, fp.CategoricalPrediction(), shape=(3,)) for path in (old, new))
    x = (jnp.log(jnp.array([0.2, 0.5, 0.3])), jnp.eye(3))
    z = jax.random.normal(key, (3,))
    target, wanted = (eqx.filter_jit(f.target)(0.4, z, x) for f in (fp.change_path(flow, new), direct))
    np.testing.assert_allclose(target, wanted, rtol=1e-5)


def test_its_error_is_that_of_the_target(key):
    path = NEW_PATHS["sigmoid"]()
    changed = fp.change_path(exact.exact_flow(exact.MIXTURE, *exact.PAIRS["fm"]()), path)
    direct = exact.exact_flow(exact.MIXTURE, path, fp.TargetPrediction())
    z0, z1 = jax.random.normal(key, (2, 2))
    error, wanted = (eqx.filter_jit(flow.error)(0.4, z0, z1) for flow in (changed, direct))
    np.testing.assert_allclose(error, wanted, rtol=1e-5)
