"""Samples with their densities, and their importance weights for another density."""

import closed_forms as exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


def law(pair):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS[pair]())
    return flow, exact.pushforward_moments(flow, exact.GAUSSIAN)


@pytest.mark.parametrize("pair", ["fm", "ct sigmoid", "condot target"])
def test_each_sample_comes_with_its_density(pair, key):
    flow, moments = law(pair)
    samples, log_probs = fp.sample_and_log_prob(flow, 50, key=key)
    assert samples.shape == (50, 2)
    np.testing.assert_allclose(log_probs, exact.gaussian_log_prob(samples, *moments), atol=1e-3)
    if flow.span[1] == 1.0:
        # The step control includes the divergence, so that the steps differ, at the same tolerance of 1e-5.
        np.testing.assert_allclose(samples, fp.sample(flow, 50, key=key), atol=1e-3)


def test_it_is_unbiased_with_random_probes(key):
    flow, moments = law("fm")
    samples, log_probs = fp.sample_and_log_prob(flow, 2_000, key=key, divergence=fp.HutchinsonDivergence())
    errors = log_probs - exact.gaussian_log_prob(samples, *moments)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / 2_000**0.5


def test_weighted_samples_have_the_moments_of_another_gaussian(key):
    """Weighted moments within five standard errors, computed from the effective sample size.

    For the densities q = N(0, s^2 I) and p = N(m, t^2 I) in d dimensions: ESS / n tends to 1 / E_q[(p/q)^2].
    """
    mean, target_std = jnp.array([0.3, -0.2]), 0.8
    samples = jax.random.normal(key, (20_000, 2))
    log_prob = jax.scipy.stats.norm.logpdf(samples).sum(axis=1)
    log_target = jax.scipy.stats.norm.logpdf(samples, mean[None], target_std).sum(axis=1) + 5.0
    weights = fp.importance_weights(log_target, log_prob)
    w = np.exp(weights.log_weights)
    assert w.sum() == pytest.approx(1.0, rel=1e-4)
    size = float(weights.effective_sample_size)
    np.testing.assert_allclose(w @ np.asarray(samples), mean, atol=5 * target_std / size**0.5)
    # The integral of p^2 / q in closed form, one factor for each dimension.
    precision = 2 / target_std**2 - 1
    per_dim = np.exp(2 * mean / target_std**2 * mean / target_std**2 / precision * 1.0 - mean**2 / target_std**2)
    second = np.prod(per_dim) * (1 / (target_std**2 * precision**0.5)) ** 2
    assert size / 20_000 == pytest.approx(1 / float(second), rel=0.05)
    assert abs(float(weights.log_normaliser) - 5.0) < 4 * float(weights.log_normaliser_error)
    assert float(weights.log_normaliser_error) == pytest.approx((1 / size - 1 / 20_000) ** 0.5, rel=1e-2)


def test_equal_densities_have_equal_weights():
    weights = fp.importance_weights(jnp.zeros(10) - 3.0, jnp.zeros(10))
    np.testing.assert_allclose(weights.log_weights, -np.log(10), rtol=1e-6)
    assert float(weights.effective_sample_size) == pytest.approx(10, rel=1e-6)
    assert float(weights.log_normaliser) == pytest.approx(-3.0, rel=1e-6)
    assert float(weights.log_normaliser_error) == pytest.approx(0.0, abs=1e-3)


def test_the_weight_is_zero_if_the_target_is_zero():
    weights = fp.importance_weights(jnp.array([0.0, -jnp.inf, 0.0]), jnp.zeros(3))
    np.testing.assert_allclose(np.exp(weights.log_weights), [0.5, 0.0, 0.5], rtol=1e-6)
    assert float(weights.effective_sample_size) == pytest.approx(2.0, rel=1e-6)


def test_errors_name_the_argument(key):
    flow, _ = law("fm")
    with pytest.raises(TypeError, match="`integrator` is SDEIntegrator"):
        fp.sample_and_log_prob(flow, 3, key=key, integrator=fp.SDEIntegrator())
    with pytest.raises(ValueError, match="`num_samples` is 0"):
        fp.sample_and_log_prob(flow, 0, key=key)
    with pytest.raises(TypeError, match="`log_prob` is"):
        fp.importance_weights(jnp.zeros(3), jnp.zeros(4))
    with pytest.raises(ValueError, match="`log_target` has shape"):
        fp.importance_weights(jnp.zeros(0), jnp.zeros(0))
