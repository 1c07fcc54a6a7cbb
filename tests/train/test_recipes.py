"""`fp.Trainer` in a loop of one's own, and recipes of optimisation: each against a computation by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._train.loop import epoch_order


KEY = jax.random.key(5)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


class Model(eqx.Module):
    weight: jax.Array

    def loss(self, x, *, key):
        return jnp.mean(jnp.square(x @ self.weight - 1 + 0.1 * jax.random.normal(key, x.shape[:1])))


def fit(model, optimiser, **options):
    return fp.fit(model, X, optimiser, **({"steps": 12, "batch_size": 5, "key": KEY, "progress": False} | options))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_loop_of_ones_own_is_fit(ema):
    model, optimiser = Model(jnp.zeros(3)), optax.adam(0.1)
    expected, history = fit(model, optimiser, ema=ema)
    trainer = fp.Trainer(model, optimiser, ema=ema)
    state = trainer.init(key=KEY)
    losses = []
    for step in range(12):
        order = epoch_order(state.key, jnp.asarray(step), 20, 5)
        state, metrics = trainer.step(state, X[np.asarray(order)[step % 4 * 5 :][:5]])
        losses.append(metrics["loss"])
    np.testing.assert_allclose(losses, history["loss"], rtol=1e-6)
    np.testing.assert_allclose(trainer.model(state).weight, expected.weight, rtol=1e-5)


def test_warm_up_and_decay():
    rate = fp.warmup_cosine(0.2, 100, warmup=0.1, end=0.1)
    np.testing.assert_allclose([rate(s) for s in (0, 5, 10, 55, 100, 200)], [0, 0.1, 0.2, 0.11, 0.02, 0.02], rtol=1e-5)
    assert float(fp.warmup_cosine(0.2, 100, warmup=0)(0)) == pytest.approx(0.2)
    for options, name in (({"warmup": 1.0}, "warmup"), ({"end": 2.0}, "end"), ({"peak": 0.0}, "peak")):
        with pytest.raises(ValueError, match=f"`{name}` is"):
            fp.warmup_cosine(**({"peak": 0.1, "steps": 10} | options))


def test_a_plateau_lowers_the_learning_rate():
    """The loss is constant: after two steps without a smaller one, the scale halves."""

    class Flat(eqx.Module):
        weight: jax.Array

        def loss(self, x, *, key):
            return 1 + 0 * self.weight.sum()

    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=1e-4)
    _, history = fit(Flat(jnp.zeros(3)), optax.chain(optax.sgd(0.1), plateau), steps=9)
    assert 0 < float(history.state.training.optimiser[1].scale) <= 0.25


def test_accumulation_is_one_step_on_the_larger_batch():
    class Quiet(Model):
        def loss(self, x, *, key):
            return jnp.mean(jnp.square(x @ self.weight - 1))

    small, _ = fit(Quiet(jnp.zeros(3)), optax.MultiSteps(optax.sgd(0.1), 4), steps=8)
    large, _ = fit(Quiet(jnp.zeros(3)), optax.sgd(0.1), steps=2, batch_size=20)
    np.testing.assert_allclose(small.weight, large.weight, rtol=1e-5)


def test_clipping_and_a_mask_of_weight_decay():
    class Two(eqx.Module):
        weight: jax.Array
        bias: jax.Array

        def loss(self, x, *, key):
            return jnp.sum(100 * self.weight) + 0 * self.bias.sum()

    model = Two(jnp.ones((2, 2)), jnp.ones(2))
    clipped, _ = fit(model, optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), steps=1)
    np.testing.assert_allclose(clipped.weight, 0.5, rtol=1e-5)
    decay = optax.add_decayed_weights(0.5, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p))
    decayed, _ = fit(model, optax.chain(optax.scale(0.0), decay, optax.scale(-1.0)), steps=1)
    np.testing.assert_allclose(decayed.weight, 0.5)
    np.testing.assert_allclose(decayed.bias, 1.0)


class Recomputed(eqx.Module):
    network: fp.nn.MLP

    def __call__(self, t, z, x):
        return eqx.filter_checkpoint(self.network)(t, z, x)


def test_low_precision_and_rematerialisation():
    net = fp.nn.MLP((3,), width=8, depth=1, key=KEY)
    histories = {}
    for name, network in {"net": net, "remat": Recomputed(net), "low": fp.nn.LowPrecision(net)}.items():
        flow, histories[name] = fit(fp.fm_flow(network, shape=(3,)), optax.adam(1e-2), ema=0.9, steps=6)
        for leaf in jax.tree.leaves(histories[name].state.training):
            assert leaf.dtype != jnp.bfloat16
    np.testing.assert_allclose(histories["remat"]["loss"], histories["net"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(histories["low"]["loss"], histories["net"]["loss"], rtol=0.05)
    assert np.all(histories["low"]["loss"] != histories["net"]["loss"])
    # In use there is no rounding.
    t, z = jnp.asarray(0.3), jnp.ones(3)
    np.testing.assert_array_equal(flow.network(t, z), flow.network.network(t, z))
    assert "bf16" in str(jax.make_jaxpr(lambda z: flow.network(t, z, key=KEY))(z))
    assert flow.network(t, z, key=KEY).dtype == jnp.float32
