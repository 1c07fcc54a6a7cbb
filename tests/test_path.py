"""Paths against the definitions of their coefficients."""

import closed_forms as exact
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._path import derivative


PATHS = {
    "condot": fp.CondOTPath,
    "linear": lambda: fp.VPPath(fp.LinearNoiseSchedule()),
    "cosine": lambda: fp.VPPath(fp.CosineNoiseSchedule()),
    "sigmoid": lambda: fp.VPPath(fp.SigmoidNoiseSchedule(13.0)),
    "learnable": lambda: fp.VPPath(exact.learnable()),
}
each_path = pytest.mark.parametrize("path", PATHS)
INSIDE = np.linspace(0.01, 0.99, 25)


@each_path
def test_gamma_is_the_log_signal_to_noise_ratio_and_rises(path, x64):
    path, t = PATHS[path](), jnp.asarray(INSIDE)
    np.testing.assert_allclose(path.gamma(t), 2 * np.log(path.alpha(t) / path.sigma(t)), rtol=1e-9)
    assert np.all(np.diff(path.alpha(t)) > 0)
    assert np.all(np.diff(path.sigma(t)) < 0)


@each_path
def test_coefficients_take_floats_arrays_and_transformations(path):
    path = PATHS[path]()
    for function in (path.alpha, path.sigma, path.gamma):
        batch = function(jnp.asarray(INSIDE, jnp.float32))
        assert batch.dtype == jnp.float32
        one_by_one = jnp.stack([function(float(t)) for t in INSIDE])
        np.testing.assert_allclose(batch, one_by_one, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(batch, jax.jit(jax.vmap(function))(INSIDE.astype("float32")), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", [p for p in PATHS if p != "condot"])
def test_the_variance_is_preserved(path):
    path, t = PATHS[path](), jnp.linspace(0, 1, 50)
    np.testing.assert_allclose(path.alpha(t) ** 2 + path.sigma(t) ** 2, 1, rtol=1e-6)


def test_named_schedules_are_those_of_the_papers():
    t = jnp.linspace(0, 1, 11)
    linear, cosine = PATHS["linear"](), PATHS["cosine"]()
    np.testing.assert_allclose(linear.alpha(t) ** 2, 0.01 + 0.98 * t, rtol=1e-5)
    np.testing.assert_allclose(cosine.alpha(t) ** 2, 0.01 + 0.98 * np.sin(np.pi * t / 2), rtol=1e-5)


@each_path
def test_derivatives_are_those_of_finite_differences(path, x64):
    path, t, h = PATHS[path](), jnp.asarray(INSIDE), 1e-5
    for function in (path.alpha, path.sigma):
        numeric = (function(t + h) - function(t - h)) / (2 * h)
        np.testing.assert_allclose(derivative(function, t), numeric, rtol=1e-6, atol=1e-9)


@each_path
def test_the_diffusion_is_that_of_the_design(path, x64):
    """`g^2/(2 sigma)` without the division, and the values that give known reverse SDEs."""
    path = PATHS[path]()
    for t in INSIDE:
        g, half_ratio = path.diffusion(t)
        np.testing.assert_allclose(half_ratio, g**2 / (2 * path.sigma(t)), rtol=1e-9)
        wanted = (
            2 * path.sigma(t) if isinstance(path, fp.CondOTPath) else derivative(path.gamma, t) * path.sigma(t) ** 2
        )
        np.testing.assert_allclose(g**2, wanted, rtol=1e-9)


@each_path
def test_the_diffusion_is_finite_up_to_both_ends(path):
    path = PATHS[path]()
    for t in (0.0, 1.0):
        assert np.all(np.isfinite(path.diffusion(jnp.asarray(t))))


def test_both_forms_of_the_drift_agree(x64):
    """Variance preserving: `v - g^2/(2 sigma) eps = gamma' (alpha u - (1 + alpha^2)/2 z)`; CondOT: `v - eps`."""
    z, u = jnp.array([0.3, -0.8]), jnp.array([1.1, 0.4])
    for t in (0.1, 0.5, 0.9):
        path = PATHS["linear"]()
        estimate, alpha = path.from_target(t, z, u), path.alpha(t)
        drift = estimate.velocity - path.diffusion(t)[1] * estimate.noise
        wanted = derivative(path.gamma, t) * (alpha * u - (1 + alpha**2) / 2 * z)
        np.testing.assert_allclose(drift, wanted, rtol=1e-10)
        estimate = fp.CondOTPath().from_target(t, z, u)
        drift = estimate.velocity - fp.CondOTPath().diffusion(t)[1] * estimate.noise
        np.testing.assert_allclose(drift, estimate.velocity - estimate.noise, rtol=1e-10)


S, T = np.array([[0.05, 0.1], [0.1, 0.9], [0.5, 0.51], [0.9, 0.999]]).T


@eqx.filter_jit
def posterior(path, s, t, stochasticity=1.0):
    return jax.vmap(lambda s, t: path.posterior(s, t, stochasticity))(jnp.asarray(s), jnp.asarray(t))


@each_path
def test_the_posterior_is_that_of_bayes(path, x64):
    """Given z_1, `z_t ~ N(alpha_t z_1, sigma_t^2)` and, going back, `z_s = r z_t` and the noise that makes sigma_s."""
    path = PATHS[path]()
    r, sigma = path.alpha(S) / path.alpha(T), path.sigma(T)
    added = path.sigma(S) ** 2 - r**2 * sigma**2
    variance = 1 / (1 / sigma**2 + r**2 / added)
    wanted = variance * path.alpha(T) / sigma**2, variance * r / added, jnp.sqrt(variance)
    np.testing.assert_allclose(posterior(path, S, T), wanted, rtol=1e-8)


@pytest.mark.parametrize("path", [p for p in PATHS if p != "condot"])
def test_the_posterior_of_a_variance_preserving_path_is_that_of_the_paper(path, x64):
    """NoProp, eq. 6, whose alpha-bar is alpha squared."""
    path = PATHS[path]()
    before, now = path.alpha(S) ** 2, path.alpha(T) ** 2
    r = before / now
    a, b = jnp.sqrt(now) * (1 - r) / (1 - before), jnp.sqrt(r) * (1 - now) / (1 - before)
    c = (1 - now) * (1 - r) / (1 - before)
    np.testing.assert_allclose(posterior(path, S, T), (a, b, jnp.sqrt(c)), rtol=1e-8)


@each_path
def test_a_step_carries_the_marginal_whatever_its_noise(path, x64):
    """Given the data, both its mean and its variance; without noise the estimated noise is kept (DDIM)."""
    path = PATHS[path]()
    for stochasticity in (0, 0.3):
        a, b, noise_std = posterior(path, S, T, stochasticity)
        np.testing.assert_allclose(a + b * path.alpha(S), path.alpha(T), rtol=1e-12)
        np.testing.assert_allclose((b * path.sigma(S)) ** 2 + noise_std**2, path.sigma(T) ** 2, rtol=1e-9)
        np.testing.assert_allclose(noise_std, stochasticity * posterior(path, S, T)[2], rtol=1e-12)
        assert stochasticity > 0 or np.allclose(b, path.sigma(T) / path.sigma(S), rtol=1e-12)


@each_path
def test_the_posterior_is_accurate_in_single_precision(path):
    """For small steps, for a large one, and up to both ends."""
    path, grid = PATHS[path](), np.linspace(0, 1, 1001)
    s, t = np.array([*grid[:-1], 0.0]), np.array([*grid[1:], 1.0])
    for stochasticity in (0.0, 1.0):
        with jax.enable_x64(True):
            wanted = np.stack(posterior(path, s, t, stochasticity))
        assert np.all(np.isfinite(wanted))
        np.testing.assert_allclose(posterior(path, s, t, stochasticity), wanted, atol=1e-4)


def test_the_straight_path_begins_at_noise_and_ends_at_the_data():
    path = fp.CondOTPath()
    for stochasticity in (0.0, 0.5, 1.0):
        np.testing.assert_array_equal(path.posterior(0.25, 1.0, stochasticity), (1, 0, 0))
    # Independent of where it began, or a blend with the noise that it began with.
    np.testing.assert_allclose(path.posterior(0.0, 0.25), (0.25, 0, 0.75), rtol=1e-6)
    np.testing.assert_allclose(path.posterior(0.0, 0.25, 0), (0.25, 0.75, 0), rtol=1e-6)
