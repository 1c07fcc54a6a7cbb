"""A flow with one fixed condition is the same as the condition in every row, encoded once."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import all_but

import flowprop as fp


class Encoder(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.tanh(self.weight @ x)


class Network(eqx.Module):
    """A small network whose condition has 3 features."""

    weight: jax.Array

    def __call__(self, t, z, x):
        return jnp.tanh(self.weight @ jnp.concatenate([z, jnp.asarray(t, z.dtype)[None], x.astype(z.dtype)]))


def flow_of(encoder=None, shape=(2,), **changes):
    network = Network(jax.random.normal(jax.random.key(1), (shape[0], shape[0] + 4)))
    return dataclasses.replace(fp.fm_flow(network, shape=shape, encoder=encoder), **changes)


ENCODER = Encoder(jax.random.normal(jax.random.key(2), (3, 4)))
X, Y = jnp.array([0.5, -1.0, 0.3]), jnp.array([0.2, 1.0, -0.7, 0.4])
CLASSES = jnp.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]])


class FromDict(eqx.Module):
    """Features of a condition with several leaves, one of them an integer."""

    table: jax.Array

    def __call__(self, x):
        return self.table[x["class"]] + x["shift"]


def categorical():
    """Logits of three classes from features of size 2, for a condition `(features, W)`."""
    network = Network(jax.random.normal(jax.random.key(1), (3, 5)))
    return fp.Flow(network, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,))


# Each flow with the condition of one example.
CASES = {
    "plain": lambda: (flow_of(), X),
    "encoder": lambda: (flow_of(ENCODER), Y),
    "dict": lambda: (
        flow_of(FromDict(jnp.arange(6.0).reshape(2, 3))),
        {"class": jnp.array(1), "shift": jnp.array(0.3)},
    ),
    "categorical": lambda: (categorical(), (X[:2], CLASSES)),
    "categorical encoder": lambda: (
        dataclasses.replace(categorical(), encoder=lambda x: (jnp.sin(x), CLASSES)),
        X[:2],
    ),
    "guided": lambda: (fp.guide(flow_of(), jnp.zeros(3), 2.0), X),
    "guided encoder": lambda: (fp.guide(flow_of(ENCODER), jnp.zeros(4), 2.0), Y),
}


def tiled(x, n):
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (n, *[1] * leaf.ndim)), x)


@pytest.mark.parametrize("name", all_but(["encoder", "dict", "categorical encoder", "guided encoder"], CASES))
def test_is_the_flow_with_the_condition_in_every_row(name, key):
    flow, x = CASES[name]()
    one, n = fp.given(flow, x), 4
    z = jnp.array([0.3, -0.2])
    np.testing.assert_array_equal(one.velocity(0.4, z), flow.velocity(0.4, z, x))
    points = fp.sample(one, n, key=key)
    # The same numbers are computed, but XLA may sum them in another order.
    np.testing.assert_allclose(points, fp.sample(flow, n, tiled(x, n), key=key), atol=1e-5)
    assert np.ptp(points, axis=0).min() > 0.03
    np.testing.assert_allclose(fp.log_prob(one, points), fp.log_prob(flow, points, tiled(x, n)), atol=1e-4)
    # Another condition is another flow.
    other = jax.tree.map(lambda leaf: leaf + 0.5 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, x)
    assert np.abs(fp.given(flow, other).velocity(0.4, z) - one.velocity(0.4, z)).max() > 1e-3


def test_the_condition_is_encoded_once(key):
    """Once for each solve, not at each of its steps; with `given`, only once."""
    seen = []

    def encoder(x):
        # Called for each example of a batch, because it is given the example.
        jax.debug.callback(seen.append, x)
        return ENCODER(x)

    def count():
        jax.effects_barrier()
        return len(seen)

    flow = flow_of(encoder)
    fp.sample(flow, 4, tiled(Y, 4), key=key)
    assert count() == 4
    fp.log_prob(flow, jnp.zeros((4, 2)), tiled(Y, 4))
    assert count() == 8
    one = fp.given(flow, Y)
    assert count() == 9
    points = fp.sample(one, 50, key=key)
    fp.log_prob(one, points)
    assert count() == 9


def test_the_encoder_is_trained_along(key):
    flow = flow_of(ENCODER)
    assert all(jax.tree.leaves(fp.trainable(flow.encoder)))
    keys = jax.random.split(key)
    data = (np.asarray(jax.random.normal(keys[0], (32, 2))), np.asarray(jax.random.normal(keys[1], (32, 4))))
    options = {"steps": 5, "batch_size": 16, "key": key, "progress": False}
    trained, _ = fp.fit(flow, data, optax.sgd(0.1), **options)
    assert np.abs(trained.encoder.weight - ENCODER.weight).max() > 1e-4
    # The gradient of the loss, against finite differences.
    loss = lambda weight: dataclasses.replace(flow, encoder=Encoder(weight)).loss(*data, key=key)  # noqa: E731
    step = 1e-2 * jax.random.normal(key, ENCODER.weight.shape)
    slope = (loss(ENCODER.weight + step) - loss(ENCODER.weight - step)) / 2
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(ENCODER.weight), step), slope, rtol=2e-2)


def test_an_encoder_that_standardises_is_not_trained(key):
    x = np.random.default_rng(0).normal(5.0, 3.0, (64, 3)).astype(np.float32)
    flow = flow_of(fp.Standardise.fit(x))
    assert not any(jax.tree.leaves(fp.trainable(flow.encoder)))
    options = {"steps": 3, "batch_size": 16, "key": key, "progress": False}
    trained, _ = fp.fit(flow, (x[:, :2] - 5, x), optax.adamw(0.1), **options)
    np.testing.assert_array_equal(trained.encoder(x[0]), flow.encoder(x[0]))
    assert np.abs(trained.network.weight - flow.network.weight).max() > 1e-2
    # The network sees standardised conditions.
    np.testing.assert_allclose(
        trained.velocity(0.5, jnp.zeros(2), jnp.asarray(x[0])),
        trained.network(0.5, jnp.zeros(2), jnp.asarray((x[0] - x.mean(axis=0)) / x.std(axis=0))),
        atol=1e-5,
    )


def test_is_differentiable_in_the_condition(x64):
    flow, z = flow_of(ENCODER), jnp.array([[0.3, -0.2]])
    integrator = fp.ODEIntegrator(dt0=0.05)

    def value(x):
        one = fp.given(flow, x)
        points = fp.sample(one, 2, key=jax.random.key(3), integrator=integrator)
        return fp.log_prob(one, z, integrator=integrator).sum() + (points**2).sum()

    gradient = jax.jit(jax.grad(value))(Y)
    value = jax.jit(value)
    slopes = [(value(Y + 1e-5 * e) - value(Y - 1e-5 * e)) / 2e-5 for e in jnp.eye(4)]
    assert np.abs(gradient).min() > 1e-3
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5)


def test_many_conditions_at_once_are_a_vmap(key):
    flow, x = flow_of(ENCODER), jnp.stack([Y, 2 * Y, -Y])
    together = jax.vmap(lambda x: fp.sample(fp.given(flow, x), 4, key=key))(x)
    assert together.shape == (3, 4, 2)
    for one, row in zip(x, together, strict=True):
        np.testing.assert_allclose(row, fp.sample(fp.given(flow, one), 4, key=key), atol=1e-5)


def test_another_condition_is_an_error(key):
    one = fp.given(flow_of(ENCODER), Y)
    calls = (
        lambda: fp.sample(one, 2, tiled(Y, 2), key=key),
        lambda: fp.log_prob(one, jnp.zeros((2, 2)), tiled(Y, 2)),
        lambda: one.velocity(0.5, jnp.zeros(2), Y),
        lambda: one.loss(jnp.zeros((2, 2)), tiled(Y, 2), key=key),
        lambda: fp.given(one, Y),
    )
    for call in calls:
        with pytest.raises(
            ValueError, match=r"`x` is given to a flow whose condition was already given, by `fp\.given`"
        ):
            call()


def test_errors_name_the_argument():
    for empty in (None, {}, ()):
        with pytest.raises(ValueError, match="`x` holds no array: give the condition of one example"):
            fp.given(flow_of(), empty)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"`x` has NaN or infinity in a leaf of shape \(3,\)"):
            fp.given(flow_of(), X.at[1].set(bad))


def test_is_saved_with_its_condition(key, tmp_path):
    one = fp.given(flow_of(ENCODER), Y)
    fp.save(tmp_path / "flow", one)
    again = fp.load(tmp_path / "flow", fp.given(flow_of(ENCODER), 0 * Y))
    np.testing.assert_array_equal(fp.sample(again, 3, key=key), fp.sample(one, 3, key=key))
