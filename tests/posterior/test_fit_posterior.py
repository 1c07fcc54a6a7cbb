"""`fit_posterior`: what it drops, what it refuses, and that a posterior comes out."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)
PRIOR = fp.BoxUniform(-np.ones(2), np.ones(2))
pytestmark = pytest.mark.skipif(
    "validation" not in inspect.signature(fp.fit).parameters, reason="`fit` has no validation split here"
)


def simulator(theta, *, key):
    """Two informative numbers, and one that never varies. Some simulations fail."""
    x = theta + 0.3 * jax.random.normal(key, theta.shape)
    return jnp.where(theta[0] > 0.9, jnp.nan, jnp.concatenate([x, jnp.ones(1)]))


def network(key):
    return fp.nn.ResidualMLP((2,), 3, width=16, depth=1, key=key)


SMALL = {"prior": PRIOR, "network": network, "steps": 40, "key": KEY, "progress": False}


@pytest.fixture(scope="module")
def fitted():
    with pytest.warns(UserWarning, match=r"of 400 simulations have NaN or infinity \(rows .* are left out"):
        return fp.fit_posterior(simulator=simulator, budget=400, **SMALL)


def test_a_simulator(fitted):
    posterior, history = fitted
    assert 5 < history["num_dropped"] < 40
    assert history["validation_loss"].size > 1
    samples = posterior.sample(jnp.array([0.2, -0.2, 1.0]), 20, key=KEY)
    assert samples.shape == (20, 2)
    assert np.all(PRIOR.in_support(samples))
    # The column that never varies becomes 0.
    np.testing.assert_allclose(posterior.flow.encode(jnp.ones(3))[2], 0, atol=1e-6)


def test_pairs_and_an_ensemble():
    theta = np.asarray(PRIOR.sample(KEY, (100,)))
    x = np.concatenate([theta, theta[:, :1]], axis=1)
    posterior, history = fp.fit_posterior(theta, x, num_flows=2, **SMALL)
    assert history["num_dropped"] == 0
    one, other = posterior.flow.members
    assert np.all(np.asarray(one.network.layers[0].weight) != np.asarray(other.network.layers[0].weight))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "give either `theta` and `x`, or `simulator` and `budget`"),
        ({"theta": np.zeros((9, 2))}, ValueError, "give either"),
        ({"simulator": simulator}, ValueError, "give either"),
        ({"theta": np.zeros((9, 2)), "x": np.zeros((8, 3))}, ValueError, "`x` has shape .* where `theta` has 9 rows"),
        ({"theta": np.zeros((9, 2)), "x": np.zeros((9, 3, 3))}, TypeError, r"no array of shape \(n, k\)"),
        ({"theta": np.zeros((9, 2)), "x": np.full((9, 3), np.nan)}, ValueError, "in all rows"),
        ({"theta": np.zeros((9, 2)), "x": np.zeros((9, 3)), "validation": 1.0}, ValueError, "`validation` is 1"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        fp.fit_posterior(**SMALL | change)
