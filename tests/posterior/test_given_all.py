"""Several independent observations of a gaussian model, whose posterior is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)
X = jnp.array([[1.0, -0.5], [0.6, -0.2], [1.4, 0.1], [0.8, -0.6], [0.7, 0.2]])


class Normal:
    """The prior N(0, I)."""

    event_shape, batch_shape = (2,), ()

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, (*sample_shape, 2))

    def log_prob(self, theta):
        return jax.scipy.stats.norm.logpdf(theta).sum(axis=-1)


def velocity(t, z, mean):
    """Of `N(mean, 1/4)` on the straight path."""
    return mean + (t / 4 - (1 - t)) / (t**2 / 4 + (1 - t) ** 2) * (z - t * mean)


def test_the_composition_is_the_posterior():
    """x is N(theta, 1/3): one observation gives N(3/4 x, 1/4), and m of them N(3 sum x / (1 + 3 m), 1 / (1 + 3 m))."""
    flow = fp.fm_flow(velocity, shape=(2,), encoder=lambda x: 0.75 * x)
    together = fp.given_all(fp.Posterior(flow, Normal()), X, key=KEY, num_samples=2000)
    samples = np.asarray(fp.sample(together, 2000, key=KEY))
    mean, std = 3 * np.asarray(X).sum(axis=0) / 16, 0.25
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.08)
    value = fp.log_prob(together, mean[None])[0]
    np.testing.assert_allclose(value, -np.log(2 * np.pi * std**2), atol=0.15)


def test_an_ensemble_is_refused():
    flow = fp.fm_flow(velocity, shape=(2,))
    posterior = fp.Posterior(fp.FlowEnsemble([flow, flow]), Normal())
    with pytest.raises(ValueError, match="`posterior` has an ensemble"):
        fp.given_all(posterior, X, key=KEY)
