"""Conversions between target, noise, velocity and score are exact within the span of a prediction."""

import closed_forms as exact
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._path.span import derivative


Z0, Z1 = np.array([0.7, -1.2]), np.array([0.4, 0.9])
PAIRS = exact.PAIRS | exact.MORE_PAIRS
each_pair = pytest.mark.parametrize("pair", PAIRS)


def truthful_output(path, prediction, t, z0, z1):
    """The output of a network that knows noise and data."""
    match prediction:
        case fp.TargetPrediction():
            return z1
        case fp.NoisePrediction():
            return z0
        case fp.VelocityPrediction():
            return derivative(path.alpha, t) * z1 + derivative(path.sigma, t) * z0
        case fp.PreconditionedPrediction(data_std=s):
            alpha, sigma = path.alpha(t), path.sigma(t)
            return (sigma / s * z1 - alpha * s * z0) / jnp.hypot(alpha * s, sigma)


@each_pair
def test_conversions_are_exact_inside_the_span(pair, x64):
    path, prediction = PAIRS[pair]()
    z0, z1 = jnp.asarray(Z0), jnp.asarray(Z1)
    for t in np.linspace(*prediction.span(path), 21):
        output = truthful_output(path, prediction, t, z0, z1)
        z = path.interpolate(t, z0, z1)
        estimate = prediction.estimate(path, t, z, output, None)
        velocity = derivative(path.alpha, t) * z1 + derivative(path.sigma, t) * z0
        np.testing.assert_allclose(estimate.target, z1, rtol=1e-10)
        np.testing.assert_allclose(estimate.noise, z0, rtol=1e-10)
        np.testing.assert_allclose(estimate.velocity, velocity, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(prediction.error(path, t, z0, z1, output, None), 0, atol=1e-20)


@each_pair
def test_everything_is_finite_over_the_whole_span(pair):
    """In single precision, at the ends too, for any output. The score is finite where there is noise."""
    path, prediction = PAIRS[pair]()
    flow = fp.Flow(lambda t, z, x: jnp.ones_like(z), path, prediction, shape=(2,))
    z = jnp.array([0.3, -0.8])
    times = np.linspace(*flow.span, 21)
    for t in times:
        estimate = flow.estimate(float(t), z)
        assert np.all(np.isfinite(jnp.stack(estimate)))
        if path.sigma(float(t)) > 0:
            np.testing.assert_allclose(flow.score(float(t), z), -estimate.noise / path.sigma(float(t)), rtol=1e-6)


@each_pair
def test_a_time_outside_the_span_is_an_error(pair):
    path, prediction = PAIRS[pair]()
    flow = fp.Flow(lambda t, z, x: z, path, prediction, shape=(2,))
    start, end = flow.span
    z = jnp.ones(2)
    for t in (start - 0.005, end + 0.005):
        for quantity in (flow.velocity, flow.target, flow.noise, flow.score):
            with pytest.raises(ValueError, match=rf"`t` is outside of \[{start}, {end}\]"):
                quantity(t, z)
            if (start, end) != (0.0, 1.0):
                with pytest.raises(eqx.EquinoxRuntimeError, match="`t` is outside of"):
                    eqx.filter_jit(quantity)(jnp.asarray(t), z)


def test_a_score_needs_noise():
    flow = fp.fm_flow(lambda t, z, x: z, shape=(2,))
    with pytest.raises(ValueError, match=r"sigma\(t\) > 0"):
        flow.score(1.0, jnp.ones(2))
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"sigma\(t\) > 0"):
        eqx.filter_jit(flow.score)(jnp.asarray(1.0), jnp.ones(2))


def test_preconditioning_with_output_zero_is_the_optimal_denoiser_of_a_gaussian(x64):
    """For data from N(0, s^2 I), F = 0 is optimal."""
    s, path = 0.7, fp.VPPath(fp.LinearNoiseSchedule())
    data = exact.Mixture([1.0], [[0.0, 0.0]], [s**2 * np.eye(2)])
    prediction, z = fp.PreconditionedPrediction(s), jnp.array([0.3, -0.8])
    for t in (0.0, 0.3, 1.0):
        target, noise = data.expectations(path.alpha(t), path.sigma(t), z)
        estimate = prediction.estimate(path, t, z, jnp.zeros(2), None)
        np.testing.assert_allclose(estimate.target, target, rtol=1e-12)
        np.testing.assert_allclose(estimate.noise, noise, rtol=1e-12)


def test_the_preconditioned_error_is_that_of_the_design(x64):
    """`(alpha^2 s^2 + sigma^2) / (s^2 sigma^2)` times the target's squared error."""
    s, path = 0.7, fp.VPPath(fp.SigmoidNoiseSchedule(8.0))
    flow = fp.ct_flow(
        lambda t, z, x: jnp.sin(z), shape=(2,), schedule=path.schedule, prediction=fp.PreconditionedPrediction(s)
    )
    z0, z1 = jnp.asarray(Z0), jnp.asarray(Z1)
    for t in (0.1, 0.5, 0.95):
        alpha, sigma = path.alpha(t), path.sigma(t)
        target = flow.target(t, path.interpolate(t, z0, z1))
        weight = (alpha**2 * s**2 + sigma**2) / (s**2 * sigma**2)
        np.testing.assert_allclose(flow.error(t, z0, z1), weight * np.sum((target - z1) ** 2), rtol=1e-10)
