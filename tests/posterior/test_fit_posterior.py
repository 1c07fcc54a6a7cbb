"""`fit_posterior`: what it drops, what it refuses, and that a posterior comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)
PRIOR = fp.BoxUniform(-np.ones(2), np.ones(2))


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
    assert np.all(
        np.asarray(one.network.network.layers[0].weight) != np.asarray(other.network.network.layers[0].weight)
    )


def test_goes_on_from_a_posterior(fitted):
    """The flow has the transform and the encoder of the first simulations, and the network is trained further."""
    theta = np.asarray(PRIOR.sample(KEY, (100,))) / 2
    x = np.concatenate([theta, np.ones((100, 1))], axis=1)
    options = {name: value for name, value in SMALL.items() if name != "network"}
    posterior, _ = fp.fit_posterior(theta, x, start=fitted[0], **options)
    before, after = fitted[0].flow, posterior.flow
    np.testing.assert_array_equal(after.encode(x[0]), before.encode(x[0]))
    np.testing.assert_array_equal(after.transform.forward(theta[0]), before.transform.forward(theta[0]))
    change = np.abs(after.network.network.layers[0].weight - before.network.network.layers[0].weight)
    assert 0 < change.max() < 0.5
    with pytest.raises(ValueError, match="`network` and `start` are both given"):
        fp.fit_posterior(theta, x, start=fitted[0], **SMALL)


@pytest.mark.slow
def test_rounds_simulate_where_the_posterior_lies():
    """x = theta + 0.2 noise, with a flat prior on [-3, 3]: the posterior is N(x, 0.2^2)."""
    seen = []

    def simulator(theta, *, key):
        jax.debug.callback(lambda value: seen.append(float(value)), theta[0])
        return theta + 0.2 * jax.random.normal(key, theta.shape)

    posterior, histories = fp.fit_posterior_rounds(
        simulator,
        jnp.ones(1),
        prior=fp.BoxUniform(-3 * np.ones(1), 3 * np.ones(1)),
        budget=400,
        rounds=3,
        network=lambda key: fp.nn.ResidualMLP((1,), 1, width=32, depth=1, key=key),
        time_sampling=fp.PowerTimeSampling(2.0),
        steps=2000,
        learning_rate=3e-3,
        ema=0.99,
        key=KEY,
        progress=False,
    )
    jax.effects_barrier()
    first, second, third = np.asarray(seen).reshape(3, 400)
    assert np.abs(first).max() > 2.5
    # Three standard deviations around 1, 0.6, leave out less than 0.01; a rough posterior is broader.
    assert np.abs(second - 1).max() < 2
    # The regions are nested, and still hold the 95 % of the posterior around its mean.
    assert second.min() - 0.01 < third.min() < 0.6
    assert 1.4 < third.max() < second.max() + 0.01
    shares = [float(history["acceptance"]) for history in histories]
    assert 0.13 < shares[2] <= shares[1] < 0.65
    samples = np.asarray(posterior.sample(jnp.ones(1), 2000, key=KEY))
    np.testing.assert_allclose([samples.mean(), samples.std()], [1.0, 0.2], atol=0.04)


@pytest.mark.slow
def test_rounds_refuse_a_region_that_is_too_small():
    """The posterior of x = theta + noise of 1e-4 on [-1, 1] has a region of less than a thousandth."""

    def simulator(theta, *, key):
        return theta + 1e-4 * jax.random.normal(key, theta.shape)

    with pytest.raises(RuntimeError, match=r"draws of `prior` lie within the region .* larger `outside`"):
        fp.fit_posterior_rounds(
            simulator,
            jnp.zeros(2),
            prior=fp.BoxUniform(-100 * np.ones(2), 100 * np.ones(2)),
            budget=400,
            outside=0.9,
            network=lambda key: fp.nn.ResidualMLP((2,), 2, width=32, depth=1, key=key),
            steps=1000,
            ema=None,
            key=KEY,
            progress=False,
        )


def test_the_training_continues_from_its_checkpoint(tmp_path):
    theta = np.asarray(PRIOR.sample(KEY, (100,)))
    x = np.concatenate([theta, theta[:, :1]], axis=1)
    first, _ = fp.fit_posterior(theta, x, checkpoint=tmp_path / "training", **SMALL)
    # The training has ended: the same call reads its result, and another one is refused.
    again, history = fp.fit_posterior(theta, x, checkpoint=tmp_path / "training", **SMALL)
    assert history["step"][-1] == 40
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"`checkpoint` .* holds a training with another"):
        fp.fit_posterior(theta + 1e-3, x, checkpoint=tmp_path / "training", **SMALL)


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
