"""Data in their own units: the recipe of README learns them whatever their scale, shift and correlation.

The densities are known. Two thousand steps leave 0.02 to 0.08 nats on data of unit scale; the mean of 4,000 test points
has a standard error of 0.02.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal

import flowprop as fp


def gaussian(scales, *, shift=0.0, correlation=0.0):
    """Points and log-density of a gaussian in two dimensions."""
    scales = np.asarray(scales, float)
    covariance = np.outer(scales, scales) * np.array([[1, correlation], [correlation, 1]])
    # SciPy's own test of singularity is absolute: it is asked in units of the scales.
    unit = multivariate_normal(np.zeros(2), covariance / np.outer(scales, scales))
    mean = np.full(2, shift)

    def draw(n, seed):
        return mean + unit.rvs(n, random_state=seed) * scales

    def log_prob(points):
        return unit.logpdf((points - mean) / scales) - np.log(scales).sum()

    return draw, log_prob, mean, scales


def mixture(scales, *, shift=0.0):
    """Two gaussians, three of their standard deviations apart in each coordinate."""
    scales = np.asarray(scales, float)
    centres = np.array([[-1.5, -1.5], [1.5, 1.5]])
    parts = [multivariate_normal(centre, np.eye(2)) for centre in centres]

    def draw(n, seed):
        random = np.random.default_rng(seed)
        unit = centres[random.integers(0, 2, n)] + random.standard_normal((n, 2))
        return shift + unit * scales

    def log_prob(points):
        unit = (points - shift) / scales
        return np.logaddexp(*(part.logpdf(unit) for part in parts)) - np.log(2) - np.log(scales).sum()

    return draw, log_prob, np.full(2, shift), scales * np.sqrt(1 + 1.5**2)


# In single precision numbers about 1000 are 6e-5 apart: a shift by 1e3 leaves a scale of 1, and not one of 1e-4.
CASES = {
    "gaussian, small": (gaussian((1.0, 1e-4)), fp.Standardise),
    "gaussian, large": (gaussian((1.0, 1e4)), fp.Standardise),
    "gaussian, both": (gaussian((1e-4, 1e4)), fp.Standardise),
    "gaussian, shifted": (gaussian((1.0, 10.0), shift=1e3), fp.Standardise),
    "gaussian, correlated": (gaussian((1.0, 1.0), correlation=0.999), fp.Whiten),
    "gaussian, correlated, all scales": (gaussian((1e-4, 1e4), correlation=0.999), fp.Whiten),
    "gaussian, correlated, shifted": (gaussian((10.0, 100.0), shift=1e3, correlation=0.999), fp.Whiten),
    "mixture, small": (mixture((1e-4, 1e-4)), fp.Standardise),
    "mixture, both": (mixture((1e-4, 1e4)), fp.Whiten),
    "mixture, shifted": (mixture((1.0, 1e2), shift=1e3), fp.Standardise),
}


def trained(points, transform, key):
    key_network, key_fit = jax.random.split(key)
    flow = fp.fm_flow(fp.nn.MLP(shape=2, key=key_network), shape=2, transform=transform)
    optimiser = optax.adam(optax.cosine_decay_schedule(4e-3, 2000))
    return fp.fit(flow, (points,), optimiser, steps=2000, batch_size=256, key=key_fit, ema=0.99, progress=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "transform"), CASES.values(), ids=CASES)
def test_a_density_in_any_units(case, transform, key):
    draw, log_prob, mean, std = case
    key_fit, key_sample = jax.random.split(key)
    points, test_points = (draw(n, seed).astype(np.float32) for n, seed in ((20_000, 0), (4000, 1)))
    flow = trained(points, transform.fit(points), key_fit)
    gap = np.mean(log_prob(test_points.astype(float))) - np.mean(fp.log_prob(flow, test_points))
    samples = np.asarray(fp.sample(flow, 20_000, key=key_sample), float)
    shift = np.abs(samples.mean(axis=0) - mean) / std
    ratio = samples.std(axis=0) / std
    print(f"short by {gap:.3f} nats; means off by {shift} deviations; deviations {ratio} of the true ones")
    assert abs(gap) < 0.1
    assert np.all(shift < 0.05)
    np.testing.assert_allclose(ratio, np.ones(2), atol=0.05)


@pytest.mark.slow
def test_uniform_data_in_a_box(key):
    key_fit, key_sample = jax.random.split(key)
    points, test_points = (
        np.random.default_rng(seed).random((n, 2), np.float32) for seed, n in ((0, 20_000), (1, 4000))
    )
    flow = trained(points, fp.Bounded(0.0, 1.0), key_fit)
    samples = fp.sample(flow, 20_000, key=key_sample)
    assert jnp.all((samples >= 0) & (samples <= 1))
    assert abs(float(fp.log_prob(flow, test_points).mean())) < 0.1
    outside = fp.log_prob(flow, np.array([[0.5, 1.01], [-0.01, 0.5]], np.float32))
    np.testing.assert_array_equal(outside, [-np.inf, -np.inf])
