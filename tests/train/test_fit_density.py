"""The recipe in one call is the composition of its parts."""

import jax
import numpy as np
import optax
import pytest

import flowprop as fp


KEY_POINTS, KEY_NETWORK, KEY_FIT = jax.random.split(jax.random.key(0), 3)


def network(condition_size=0):
    return fp.nn.MLP(2, condition_size, width=8, depth=1, key=KEY_NETWORK)


def points():
    return np.asarray(fp.data.two_moons(200, key=KEY_POINTS)[0]) * np.array([1.0, 100.0], np.float32)


def equal(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves if hasattr(a, "shape"))


def test_it_composes_the_parts():
    data = points()
    flow, history = fp.fit_density(network(), data, steps=5, batch_size=32, key=KEY_FIT, progress=False)
    by_hand = fp.fm_flow(
        network(),
        shape=2,
        coupling=fp.OTCoupling(),
        transform=fp.Standardise.fit(data),
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(4e-3, 5))
    by_hand, wanted = fp.fit(by_hand, data, optimiser, steps=5, batch_size=32, key=KEY_FIT, ema=0.995, progress=False)
    assert equal(flow, by_hand)
    np.testing.assert_array_equal(history["loss"], wanted["loss"])


def test_with_a_condition_noise_stays_independent_of_it():
    data = points()
    x = data * np.array([1e-3, 1e3], np.float32) + 5
    flow, _ = fp.fit_density(network(2), data, x, steps=2, batch_size=32, key=KEY_FIT, progress=False)
    assert flow.coupling.is_independent
    assert flow.time_sampling == fp.PowerTimeSampling(4.0)
    encoded = np.asarray(jax.vmap(flow.encode)(x))
    np.testing.assert_allclose(encoded.mean(axis=0), np.zeros(2), atol=1e-3)
    np.testing.assert_allclose(encoded.std(axis=0), np.ones(2), rtol=1e-3)


@pytest.mark.parametrize(
    "x",
    [np.eye(2, dtype=np.float32)[np.arange(200) % 2], {"a": np.ones((200, 2), np.float32)}],
    ids=["one-hot", "a dict"],
)
def test_other_conditions_go_to_the_network_as_they_are(x):
    flow, _ = fp.fit_density(network(2), points(), x, steps=2, batch_size=32, key=KEY_FIT, progress=False)
    assert flow.encoder is None


def test_constant_columns_are_refused_by_name():
    data = points()
    data[:, 1] = 3
    with pytest.raises(ValueError, match="column 1"):
        fp.fit_density(network(), data, steps=1, batch_size=8, key=KEY_FIT)
