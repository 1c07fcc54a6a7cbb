"""Paths from two functions of time: coefficients, flows and samples against closed forms."""

import itertools

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_but

import flowprop as fp


TIGHT = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-8, atol=1e-8), dt0=1e-4)
NUM_SAMPLES = 4_000
each_pair = pytest.mark.parametrize("pair", exact.MORE_PAIRS)
TIMES = np.linspace(0, 1, 11)


def test_the_straight_path_is_that_of_flow_matching(x64):
    path, wanted, z = exact.MORE_PAIRS["straight velocity"]()[0], fp.CondOTPath(), jnp.array([0.3, -0.8])
    for t in (0.1, 0.5, 0.9):
        for way in ("from_target", "from_noise", "from_velocity"):
            one, other = (getattr(p, way)(t, z, 2 * z) for p in (path, wanted))
            np.testing.assert_allclose(jnp.stack(one), jnp.stack(other), rtol=1e-12)
        np.testing.assert_allclose(path.posterior(0.05, t), wanted.posterior(0.05, t), rtol=1e-12)


def test_coefficients_are_those_of_the_papers(x64):
    t = jnp.asarray(TIMES)
    path = fp.trigonometric_path()
    np.testing.assert_allclose(path.alpha(t), np.sin(np.pi * TIMES / 2), atol=1e-15)
    np.testing.assert_allclose(path.sigma(t), np.cos(np.pi * TIMES / 2), atol=1e-15)
    assert float(path.sigma(1.0)) == 0
    path = fp.polynomial_path(3)
    np.testing.assert_allclose(path.alpha(t), TIMES**3)
    np.testing.assert_allclose(path.sigma(t), 1 - TIMES**3)
    # EDM's table of 18 steps is spaced by `i / 17`; by Karras et al. 2022, eq. 5.
    path = fp.variance_exploding_path(0.002, 80, rho=7)
    steps = np.arange(18)
    wanted = (80 ** (1 / 7) + steps / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(path.sigma(jnp.asarray(steps / 17)), wanted, rtol=1e-10)
    np.testing.assert_allclose(path.alpha(t), np.ones(11))


def test_functions_may_return_numbers_and_modules_may_be_trained(key):
    """A constant, and a module with an array that has a gradient."""
    assert fp.AffinePath(lambda t: 1, lambda t: 3 - 2 * t).alpha(jnp.zeros((2, 3))).shape == (2, 3)

    class Bent(eqx.Module):
        bend: jax.Array

        def __call__(self, t):
            return 1 - t - self.bend * t * (1 - t)

    path = fp.AffinePath(lambda t: t, Bent(jnp.asarray(0.3)))
    gradient = eqx.filter_grad(lambda path: path.sigma(0.5))(path)
    assert float(gradient.noise.bend) == -0.25
    # Inside of jit its spans are those that it was made with.
    spans = []
    eqx.filter_jit(lambda path: spans.append(path.target_span))(path)
    assert spans == [path.target_span]

    def traced(bend, span):
        return fp.AffinePath(lambda t: t, Bent(bend), span=span).gamma(0.3)

    assert np.isfinite(jax.jit(lambda bend: traced(bend, (0.01, 0.99)))(0.3))
    with pytest.raises(ValueError, match="`span` is None, but `alpha` or `sigma` depends on a traced array"):
        jax.jit(lambda bend: traced(bend, None))(0.3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fp.AffinePath(lambda t: 1 - t, lambda t: t), "`alpha` and `sigma` do not make a path"),
        (lambda: fp.AffinePath(lambda t: t, lambda t: jnp.log(t - 0.5)), "`alpha` and `sigma` do not make a path"),
        (lambda: fp.AffinePath(lambda t: t, lambda t: jnp.ones(2)), r"a path's coefficient has shape \(2,\)"),
        (lambda: fp.AffinePath(lambda t: t, lambda t: 1 - t, span=(0.5, 0.5)), "`span` is"),
        (lambda: fp.polynomial_path(0), "`exponent` is 0"),
        (lambda: fp.polynomial_path(np.nan), "`exponent` is nan"),
        (lambda: fp.variance_exploding_path(0.0), "`sigma_min` is"),
        (lambda: fp.variance_exploding_path(1.0, 0.5), "`sigma_max` is 0.5"),
        (lambda: fp.variance_exploding_path(rho=0), "`rho` is 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_paths_with_the_same_arguments_are_equal():
    """A program compiled for one path can then be used for the other."""
    for make in (fp.trigonometric_path, lambda: fp.polynomial_path(2.0), fp.variance_exploding_path):
        assert eqx.tree_equal(make(), make())


@pytest.mark.parametrize("pair", all_but(["ct quadratic", "trigonometric velocity"], exact.MORE_PAIRS))
def test_log_prob_is_the_exact_pushforward(pair, key, x64):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.MORE_PAIRS[pair]())
    z = exact.GAUSSIAN.mean[None] + jax.random.normal(key, (5, 2))
    wanted = exact.gaussian_log_prob(z, *exact.pushforward_moments(flow, exact.GAUSSIAN))
    np.testing.assert_allclose(fp.log_prob(flow, z, integrator=TIGHT), wanted, atol=1e-5)


def test_the_likelihood_of_an_exploding_path_is_that_of_the_data(key):
    """In single precision, by the default integrator. The start is wrong by the data's mean over sigma_max.

    That changes `z_0^2 / (2 sigma_max^2)` by `n mean / 80` for a standard normal `n`: below 0.05 at three deviations.
    """
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.MORE_PAIRS["exploding preconditioned"]())
    z = exact.GAUSSIAN.sample(20, key=key)
    wanted = exact.gaussian_log_prob(z, exact.GAUSSIAN.mean, exact.GAUSSIAN.covariance)
    np.testing.assert_allclose(fp.log_prob(flow, z), wanted, atol=0.05)


SAMPLERS = {
    "ode": fp.ODEIntegrator(),
    "sde": fp.SDEIntegrator(200),
    "ancestral": fp.AncestralIntegrator(200),
}


#: Every pair with every sampler. The default suite has each pair and each sampler at least once.
DRAWN = list(
    itertools.product(
        ["trigonometric target", "polynomial velocity", "exploding preconditioned", "ct quadratic"], SAMPLERS
    )
)
QUICK = DRAWN[::4] + DRAWN[-1:]


@pytest.mark.parametrize(("pair", "sampler"), all_but(QUICK, DRAWN))
def test_every_sampler_draws_from_the_data(pair, sampler, key):
    """Within four standard errors, and the bias of 200 steps (0.02) and of a start that is late (0.01 or less)."""
    data = exact.MIXTURE
    flow = exact.exact_flow(data, *exact.MORE_PAIRS[pair]())
    samples = np.asarray(fp.sample(flow, NUM_SAMPLES, key=key, integrator=SAMPLERS[sampler]), float)
    deviation = np.sqrt(np.diag(data.covariance))
    assert np.all(np.abs(samples.mean(axis=0) - data.mean) < 4 * deviation / np.sqrt(NUM_SAMPLES) + 0.03)
    products = (samples - data.mean)[:, :, None] * (samples - data.mean)[:, None, :]
    error = products.std(axis=0) / np.sqrt(NUM_SAMPLES)
    assert np.all(np.abs(products.mean(axis=0) - data.covariance) < 4 * error + 0.04)


def test_any_source_is_allowed_if_the_path_starts_with_it(key):
    """On other paths an error: a variance-exploding path has data at its start."""
    source = fp.EmpiricalSource(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32))
    network = lambda t, z, x: jnp.zeros(2)  # noqa: E731
    flow = fp.Flow(network, fp.trigonometric_path(), fp.VelocityPrediction(), shape=(2,), source=source)
    samples = fp.sample(flow, 5, key=key)
    np.testing.assert_allclose(jnp.sort(samples, axis=1), np.tile([0.0, 1.0], (5, 1)), atol=1e-6)
    with pytest.raises(ValueError, match="`source` is EmpiricalSource and `path` a AffinePath"):
        fp.Flow(network, fp.variance_exploding_path(), fp.VelocityPrediction(), shape=(2,), source=source)
