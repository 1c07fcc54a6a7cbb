"""The linear-gaussian model of simulations: against the truth, and against leaving each simulation out."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import flowprop as fp
from flowprop._posterior.linear_gaussian import Compressed, linear_gaussian, regression
from flowprop._posterior.prior import as_prior


def draw(count, seed=0):
    """Parameters of very different units, and observations that are linear in them with noise."""
    rng = np.random.default_rng(seed)
    theta = np.array([1e3, -1e-6]) + np.array([10.0, 1e-7]) * rng.normal(size=(count, 2))
    units = (theta - np.array([1e3, -1e-6])) / np.array([10.0, 1e-7])
    x = units @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]]) + 0.5 * rng.normal(size=(count, 3))
    return theta, x


def test_it_is_the_posterior_of_a_linear_gaussian_simulator(x64):
    theta, x = draw(200_000)
    transform, matrix, _ = regression(theta, x)
    design = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]])
    covariance = np.linalg.inv(np.eye(2) + design @ design.T / 0.25)
    mean = x[:5] @ design.T / 0.25 @ covariance
    # `z` is `N(A f, I)`: go back to the units of theta.
    found = np.asarray(jax.vmap(transform.inverse)(x[:5] @ matrix.T))
    scale = np.array([10.0, 1e-7])
    np.testing.assert_allclose((found - np.array([1e3, -1e-6])) / scale, mean, atol=0.01)
    jacobian = np.asarray(jax.jacobian(transform.inverse)(np.zeros(2))) / scale[:, None]
    np.testing.assert_allclose(jacobian @ jacobian.T, covariance, rtol=0.02, atol=1e-3)


def test_the_penalty_is_that_of_leaving_each_simulation_out(x64):
    """20 rows with 15 features that say nothing: least squares predicts worse than the mean, the model does not."""
    rng = np.random.default_rng(1)
    theta, features = rng.normal(size=(20, 1)), rng.normal(size=(20, 15))
    transform, matrix, _ = regression(theta, features)
    new = rng.normal(size=(1000, 15))
    predicted = np.asarray(jax.vmap(transform.inverse)(new @ matrix.T))
    plain = np.linalg.lstsq(features - features.mean(axis=0), theta - theta.mean(), rcond=None)[0]
    assert np.std(predicted) < 0.3 * np.std(new @ plain)


def test_more_numbers_than_simulations():
    rng = np.random.default_rng(2)
    theta = rng.normal(size=(30, 40))
    transform, matrix, _ = regression(theta, rng.normal(size=(30, 50)))
    assert np.all(np.isfinite(matrix))
    z = np.asarray(jax.vmap(transform.forward)(theta.astype(np.float32)))
    assert 0.3 < z.std() < 2


def test_an_observation_without_noise():
    """A residual of 0 would be a posterior without a density."""
    theta = np.random.default_rng(3).normal(size=(100, 2))
    transform, matrix, _ = regression(theta, 2 * theta)
    assert np.all(np.isfinite(matrix))
    assert np.all(np.diag(jax.jacobian(transform.inverse)(np.zeros(2, np.float32))) > 1e-5)


@pytest.fixture
def numpyro_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


#: A prior, a simulator, and the units in which it is linear.
UNITS = {
    "as they are": (
        fp.BoxUniform(-10 * np.ones(2), 10 * np.ones(2)),
        lambda theta, noise: theta + 0.1 * noise,
        fp.Whiten,
    ),
    "between the bounds": (
        fp.BoxUniform(-np.ones(2), np.ones(2)),
        lambda theta, noise: fp.Bounded(-1.0, 1.0).forward(theta) + 0.1 * noise,
        fp.Bounded,
    ),
    "logarithms": (
        dist.LogNormal(np.zeros(2), np.ones(2)).to_event(1),
        lambda theta, noise: np.log(theta) + 0.1 * noise,
        fp.Positive,
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_the_units_are_those_in_which_the_simulator_is_linear(name, numpyro_promotes_ranks):
    prior, simulate, kind = UNITS[name]
    prior = as_prior(prior)
    theta = np.asarray(prior.sample(jax.random.key(0), (2000,)))
    x = np.asarray(simulate(theta, np.random.default_rng(1).normal(size=theta.shape)))
    model = linear_gaussian(theta, x, prior)
    first = model.transform.transforms[0] if isinstance(model.transform, fp.Chain) else model.transform
    assert isinstance(first, kind)
    # The likelihood of new simulations is what the model says, and they have the distribution `N(A f, I)`.
    new = np.asarray(prior.sample(jax.random.key(2), (2000,)))
    new_x = np.asarray(simulate(new, np.random.default_rng(3).normal(size=new.shape)))
    z, log_det = jax.vmap(model.transform.forward_and_log_det)(new)
    errors = np.asarray(z) - np.asarray(jax.vmap(model.encoder)(new_x)) @ model.matrix.T
    # Standard errors: 1 / 31 of a variance, and 0.03 of a mean of 2,000 numbers.
    np.testing.assert_allclose(np.cov(errors.T), np.eye(2), atol=0.15)
    log_prob = scipy.stats.norm.logpdf(errors).sum(axis=1) + np.asarray(log_det)
    assert abs(log_prob.mean() - model.log_prob) < 0.1


def test_extreme_observations_are_compressed(numpyro_promotes_ranks):
    """`x = exp(3 theta)`: compressed, it is nearly linear in theta."""
    theta = np.random.default_rng(5).normal(size=(1000, 1)).astype(np.float32)
    model = linear_gaussian(theta, np.exp(3 * theta), as_prior(dist.Normal(np.zeros(1), np.ones(1)).to_event(1)))
    assert isinstance(model.encoder, Compressed)
    assert np.all(np.isfinite(model.encoder(np.float32([1e30]))))


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
