"""Bits per dimension against the exact probabilities of discrete images of two pixels."""

import closed_forms as exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import flowprop as fp


LEVELS, MEAN, STD = 16, np.array([0.1, -0.2]), np.array([0.3, 0.2])
#: All images of two pixels. A level has the width 1/8; the standard deviations are 0.3 and 0.2.
IMAGES = np.stack(np.divmod(np.arange(LEVELS**2, dtype=np.uint8), LEVELS), axis=1)


def gaussian_flow(mean=MEAN, covariance=np.diag(STD**2)):
    data = exact.Mixture([1.0], [mean], [covariance])
    return exact.exact_flow(data, fp.CondOTPath(), fp.VelocityPrediction())


def protocol(**arguments):
    return fp.BitsPerDimension("all images", num_levels=LEVELS, **arguments)


def test_draws_approach_the_probability_of_the_discrete_image(key):
    result = protocol(num_draws=16)(gaussian_flow(), IMAGES, key=key)
    edges = (np.arange(LEVELS + 1) - 8) / 8
    bins = np.diff(norm.cdf(edges[:, None], MEAN, STD), axis=0)
    wanted = bins[IMAGES[:, 0], 0] * bins[IMAGES[:, 1], 1]
    # Farther from the mean, one draw may contain nearly all the probability of a level.
    central = wanted > 1e-5
    assert central.sum() > 100
    values, errors = np.exp(result.log_prob_nats), np.exp(result.draws_nats).std(axis=1) / 4
    assert (np.abs(values - wanted) < 5 * errors)[central].all()
    np.testing.assert_allclose(values.sum(), 1.0, atol=0.02)
    bits = -np.log2(wanted[central]) / 2
    # The bias is half the variance of log p within a level, 0.07 bits per dimension; with sixteen draws a tenth of it.
    assert result.single_draw_bits_per_dim[central].mean() - bits.mean() > 0.05
    assert abs(result.bits_per_dim[central].mean() - bits.mean()) < 0.015


def test_more_draws_are_never_worse(key):
    """For one image because of Jensen's inequality. More draws include the draws of a measurement with fewer."""
    few, many = (protocol(num_draws=num)(gaussian_flow(), IMAGES, key=key) for num in (2, 8))
    np.testing.assert_array_equal(few.draws_nats, many.draws_nats[:, :2])
    assert many.mean_bits_per_dim < few.mean_bits_per_dim
    assert (many.bits_per_dim <= many.single_draw_bits_per_dim + 1e-6).all()


def test_the_result_does_not_depend_on_the_coordinates(key):
    """The same distribution of images, in coordinates that are shifted and twice as wide."""
    here = protocol()(gaussian_flow(), IMAGES, key=key)
    there = protocol(centre=5, scale=4.0)(gaussian_flow(2 * MEAN + 0.75, np.diag(4 * STD**2)), IMAGES, key=key)
    # The solver's tolerance is 1e-5; the farthest image is 6 standard deviations away.
    np.testing.assert_allclose(there.bits_per_dim, here.bits_per_dim, atol=2e-3)


def test_draws_share_their_probes(key):
    """The trace of a constant Jacobian then has the same error in each draw, which the mean cannot reward."""
    flow = gaussian_flow(MEAN, np.array([[0.09, 0.05], [0.05, 0.06]]))
    plain, noisy = (
        protocol(num_draws=4, divergence=divergence)(flow, IMAGES, key=key)
        for divergence in (fp.ExactDivergence(), fp.HutchinsonDivergence())
    )
    errors = noisy.bits_per_dim - plain.bits_per_dim
    assert errors.std() > 0.1
    np.testing.assert_allclose(errors, noisy.single_draw_bits_per_dim - plain.single_draw_bits_per_dim, atol=2e-3)


def test_nats_bits_and_the_line_for_a_caption():
    result = fp.BitsPerDimensionResult(
        fp.BitsPerDimension("MNIST test", num_draws=2, divergence=fp.HutchinsonDivergence(3)),
        jnp.log(jnp.array([[0.5, 0.25], [0.125, 0.125]])),
        num_dims=3,
    )
    np.testing.assert_allclose(result.log_prob_nats, np.log([0.375, 0.125]), rtol=1e-6)
    np.testing.assert_allclose(result.bits_per_dim, -np.log2([0.375, 0.125]) / 3, rtol=1e-6)
    np.testing.assert_allclose(result.single_draw_bits_per_dim, [0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(result.mean_bits_per_dim, -np.log2(0.375 * 0.125) / 6, rtol=1e-6)
    np.testing.assert_allclose(result.mean_log_prob_nats, -result.mean_bits_per_dim * 3 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(result.standard_error_bits_per_dim, np.log2(3) / 6, rtol=1e-6)
    assert str(result) == (
        "bits/dim 0.736 +- 0.264 (MNIST test, 2 images, uniform dequantisation of 256 levels with 2 draws, "
        "HutchinsonDivergence(num_probes=3, distribution=RademacherProbes()), Tsit5(), "
        "PIDController(rtol=1e-05, atol=1e-05, pcoeff=0.4, icoeff=0.3), first step 0.05)"
    )


@pytest.mark.parametrize("num_levels", [2, 16, 256])
def test_dequantised_images_can_be_restored(num_levels, key):
    images = np.tile(np.arange(num_levels, dtype=np.uint8), (4_000, 1))
    protocol = fp.BitsPerDimension("any", num_levels=num_levels)
    z = protocol.preprocess(images, key=key)
    np.testing.assert_array_equal(protocol.to_images(z), images)
    assert -1 < z.min() < z.max() < 1
    within = z[:, 1] * protocol.scale + protocol.centre - 1
    # Uniform on [0, 1): the mean within four standard errors.
    assert abs(within.mean() - 0.5) < 4 / np.sqrt(12 * 4_000)
    np.testing.assert_array_equal(protocol.to_images(np.array([-7.0, 7.0])), [0, num_levels - 1])


def test_invalid_arguments_are_refused(key):
    with pytest.raises(ValueError, match="`num_levels` is 1"):
        fp.BitsPerDimension("any", num_levels=1)
    with pytest.raises(ValueError, match="`num_draws` is 0"):
        fp.BitsPerDimension("any", num_draws=0)
    with pytest.raises(ValueError, match="`scale` is 0"):
        fp.BitsPerDimension("any", scale=0)
    with pytest.raises(ValueError, match="`scale` is nan"):
        fp.BitsPerDimension("any", scale=float("nan"))
    with pytest.raises(ValueError, match="`centre` is inf"):
        fp.BitsPerDimension("any", centre=float("inf"))
    with pytest.raises(ValueError, match=r"`images` lie in \[0, 16\]: the protocol has levels 0 to 15"):
        protocol().preprocess(np.array([0, 16]), key=key)
    with pytest.raises(ValueError, match=r"`images` has shape \(4, 3\) where \(n, 2\) is needed"):
        protocol()(gaussian_flow(), np.zeros((4, 3), np.uint8), key=key)
    assert protocol().preprocess(jnp.zeros(2, int), key=jax.random.key(1)).shape == (2,)
