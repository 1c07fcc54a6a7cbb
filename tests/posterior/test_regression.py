"""The linear-gaussian model of simulations: against the truth, and against leaving each simulation out."""

import jax
import numpy as np
import pytest

import flowprop as fp
from flowprop._posterior.linear_gaussian import linear_gaussian


def draw(count, seed=0):
    """Parameters of very different units, and observations that are linear in them with noise."""
    rng = np.random.default_rng(seed)
    theta = np.array([1e3, -1e-6]) + np.array([10.0, 1e-7]) * rng.normal(size=(count, 2))
    units = (theta - np.array([1e3, -1e-6])) / np.array([10.0, 1e-7])
    x = units @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]]) + 0.5 * rng.normal(size=(count, 3))
    return theta, x


def test_it_is_the_posterior_of_a_linear_gaussian_simulator(x64):
    theta, x = draw(200_000)
    model = linear_gaussian(theta, x)
    design = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]])
    covariance = np.linalg.inv(np.eye(2) + design @ design.T / 0.25)
    mean = x[:5] @ design.T / 0.25 @ covariance
    # `z` is `N(A f, I)`: go back to the units of theta.
    found = np.asarray(jax.vmap(model.transform.inverse)(x[:5] @ model.matrix.T))
    scale = np.array([10.0, 1e-7])
    np.testing.assert_allclose((found - np.array([1e3, -1e-6])) / scale, mean, atol=0.01)
    jacobian = np.asarray(jax.jacobian(model.transform.inverse)(np.zeros(2))) / scale[:, None]
    np.testing.assert_allclose(jacobian @ jacobian.T, covariance, rtol=0.02, atol=1e-3)


def test_the_penalty_is_that_of_leaving_each_simulation_out(x64):
    """20 rows with 15 features that say nothing: least squares predicts worse than the mean, the model does not."""
    rng = np.random.default_rng(1)
    theta, features = rng.normal(size=(20, 1)), rng.normal(size=(20, 15))
    model = linear_gaussian(theta, features)
    new = rng.normal(size=(1000, 15))
    predicted = np.asarray(jax.vmap(model.transform.inverse)(new @ model.matrix.T))
    plain = np.linalg.lstsq(features - features.mean(axis=0), theta - theta.mean(), rcond=None)[0]
    assert np.std(predicted) < 0.3 * np.std(new @ plain)


def test_more_numbers_than_simulations():
    rng = np.random.default_rng(2)
    theta = rng.normal(size=(30, 40))
    model = linear_gaussian(theta, rng.normal(size=(30, 50)))
    assert np.all(np.isfinite(model.matrix))
    z = np.asarray(jax.vmap(model.transform.forward)(theta.astype(np.float32)))
    assert 0.3 < z.std() < 2


def test_an_observation_without_noise():
    """A residual of 0 would be a posterior without a density."""
    theta = np.random.default_rng(3).normal(size=(100, 2))
    model = linear_gaussian(theta, 2 * theta)
    assert np.all(np.isfinite(model.matrix))
    assert np.all(np.diag(jax.jacobian(model.transform.inverse)(np.zeros(2, np.float32))) > 1e-5)


def test_parameters_of_any_shape():
    shape = (2, 2)
    theta = np.random.default_rng(4).normal(size=(200, *shape)).astype(np.float32)
    x = theta.reshape(200, -1) + 0.1
    posterior, _ = fp.fit_posterior(theta, x, prior=Normal(shape), steps=5, key=jax.random.key(0), progress=False)
    assert posterior.sample(x[0], 3, key=jax.random.key(1)).shape == (3, *shape)


class Normal:
    def __init__(self, shape):
        self.event_shape = shape

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, (*sample_shape, *self.event_shape))

    def log_prob(self, theta):
        return jax.scipy.stats.norm.logpdf(theta).sum(axis=tuple(range(-len(self.event_shape), 0)))
