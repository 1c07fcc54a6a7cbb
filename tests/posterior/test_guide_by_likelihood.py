"""Guidance by a gaussian likelihood, against the closed form of gaussians and against importance weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from cases import all_but
from test_given_all import velocity

import flowprop as fp


KEY = jax.random.key(0)
#: Data N(1, 1/4) in the flow's coordinates, and N([2, -1] + [1, 3] * 1, diag([1, 3])^2 / 4) in their units.
SHIFT, SCALE = np.array([2.0, -1.0], np.float32), np.array([1.0, 3.0], np.float32)
MATRIX = np.array([[1.0, 0.5]], np.float32)
FLOWS = {
    "straight": fp.fm_flow(lambda t, z, x: velocity(t, z, 1.0), shape=(2,), transform=fp.Standardise(SHIFT, SCALE)),
    "conditional": fp.given(
        fp.fm_flow(velocity, shape=(2,), transform=fp.Standardise(SHIFT, SCALE), encoder=lambda x: x / 2),
        2 * np.ones(2),
    ),
}


def posterior(x, std):
    """Mean and covariance given `x = MATRIX z + noise`."""
    mean, covariance = SHIFT + SCALE, np.diag(SCALE**2 / 4)
    gain = covariance @ MATRIX.T / (MATRIX @ covariance @ MATRIX.T + std**2)
    return mean + gain @ (x - MATRIX @ mean), covariance - gain @ MATRIX @ covariance


@pytest.mark.parametrize(
    ("name", "std"), all_but([("straight", 0.1), ("conditional", 1.0)], itertools.product(FLOWS, [1.0, 0.1]))
)
def test_a_gaussian_has_the_closed_form(name, std):
    x = np.array([4.5], np.float32)
    guided = fp.guide_by_likelihood(FLOWS[name], lambda z: MATRIX @ z, x, std)
    exact = scipy.stats.multivariate_normal(*posterior(x, std))
    samples = np.asarray(fp.sample(guided, 2000, key=KEY))
    # Four standard errors of 2,000 samples.
    np.testing.assert_allclose(samples.mean(axis=0), exact.mean, atol=0.14)
    np.testing.assert_allclose(np.cov(samples.T), exact.cov, rtol=0.15, atol=0.02)
    # The first hundredth of the path is guided less: a shift of 0.01 standard deviations, times a sample's distance.
    np.testing.assert_allclose(fp.log_prob(guided, samples[:20]), exact.logpdf(samples[:20]), atol=0.1)


def test_weights_correct_a_likelihood_that_is_not_affine():
    flow = fp.fm_flow(lambda t, z, x: velocity(t, z, 0.0), shape=(1,))
    x, std = jnp.array([0.5]), 0.2
    guided = fp.guide_by_likelihood(flow, jnp.sin, x, std)
    samples = fp.sample(guided, 2000, key=KEY)
    exact = lambda z: scipy.stats.norm.logpdf(z, 0, 0.5) + scipy.stats.norm.logpdf(np.sin(z), 0.5, std)  # noqa: E731
    weights = fp.importance_weights(exact(np.asarray(samples)[:, 0]), fp.log_prob(guided, samples))
    assert float(weights.effective_sample_size) > 1000
    grid = np.linspace(-4, 4, 10_001)
    log_evidence = np.log(np.trapezoid(np.exp(exact(grid)), grid))
    np.testing.assert_allclose(weights.log_normaliser, log_evidence, atol=0.05)


def test_the_derivative_of_the_covariance_is_finite_where_eigenvalues_are_equal():
    """The density needs it, and gaussians have equal eigenvalues; beside finite differences of the guided velocity."""
    guided = fp.guide_by_likelihood(FLOWS["straight"], lambda z: z**2 / 3, np.ones(2), 0.5)
    z, step = jnp.array([0.3, -0.2]), 1e-2
    slopes = jax.jacfwd(lambda z: guided.velocity(0.5, z))(z)
    near = [(guided.velocity(0.5, z + step * e) - guided.velocity(0.5, z - step * e)) / (2 * step) for e in jnp.eye(2)]
    np.testing.assert_allclose(slopes, np.stack(near, axis=1), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros(3)}, r"`x` has shape \(3,\)"),
        ({"std": np.ones(2)}, r"`std` has shape \(2,\)"),
        ({"std": 0.0}, "`std` is not positive"),
        ({"x": np.array([np.nan])}, "`x` is not finite"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        fp.guide_by_likelihood(
            FLOWS["straight"], **({"measure": lambda z: MATRIX @ z, "x": np.zeros(1), "std": 1.0} | change)
        )
