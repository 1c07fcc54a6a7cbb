"""Networks with a key or a state: in training, and in use."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


OPTIONS = {"steps": 5, "batch_size": 16, "progress": False}


class Mask(eqx.Module):
    """Ones, which dropout changes to 0 or 2."""

    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5)

    def __call__(self, t, z, x, *, key=None):
        return self.dropout(jnp.ones_like(z), key=key)


class Dropout(eqx.Module):
    """A small network with a condition, and dropout on its hidden layer."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.first, self.second = eqx.nn.Linear(4, 16, key=first), eqx.nn.Linear(16, 2, key=second)
        self.dropout = eqx.nn.Dropout(0.3)

    def __call__(self, t, z, x, *, key=None):
        x = jnp.zeros(()) if x is None else x
        hidden = jnp.tanh(self.first(jnp.concatenate([z, jnp.stack([t, x]).astype(z.dtype)])))
        return self.second(self.dropout(hidden, key=key))


class Plain(eqx.Module):
    """The same network without a key: dropout is off."""

    network: Dropout

    def __call__(self, t, z, x):
        return eqx.nn.inference_mode(self.network)(t, z, x)


NOISY = fp.fm_flow(Dropout(jax.random.key(1)), shape=(2,))
QUIET = fp.fm_flow(Plain(NOISY.network), shape=(2,))
DATA = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
LABELS = np.linspace(-1, 1, 64, dtype=np.float32)


class TestKey:
    def test_training_drops_by_a_key_of_each_example(self, key):
        """For a target of 0, an output of 1 has the error 1 per entry; an output of 0 or 2 has 2 on average."""
        flow = fp.Flow(Mask(), fp.CondOTPath(), fp.TargetPrediction(), shape=(3,))
        n = 4_000
        loss = flow.loss(jnp.zeros((n, 3)), key=key)
        # Four standard errors of the mean of n sums of three independent entries, each of standard deviation 2. A mask
        # that all examples share would give one of 0, 4, 8 and 12.
        np.testing.assert_allclose(loss, 6.0, atol=4 * 2 * np.sqrt(3 / n))
        assert loss != flow.loss(jnp.zeros((n, 3)), key=jax.random.split(key)[0])
        assert flow.error(0.5, jnp.zeros(3), jnp.zeros(3)) == 3.0

    def test_use_is_the_network_without_dropout(self, key):
        z = jnp.array([0.3, -0.2])
        for t in (0.0, 0.4, 1.0):
            np.testing.assert_array_equal(NOISY.velocity(t, z), QUIET.velocity(t, z))
        samples = fp.sample(NOISY, 4, key=key)
        np.testing.assert_allclose(samples, fp.sample(QUIET, 4, key=key), atol=1e-6)
        np.testing.assert_allclose(fp.log_prob(NOISY, samples), fp.log_prob(QUIET, samples), atol=1e-5)

    def test_losses_differ_by_dropout_alone_and_have_finite_gradients(self, key):
        noisy, gradient = eqx.filter_value_and_grad(lambda flow: flow.loss(DATA, LABELS, key=key))(NOISY)
        assert noisy != QUIET.loss(DATA, LABELS, key=key)
        assert noisy == NOISY.loss(DATA, LABELS, key=key)
        assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
        # Without dropout both are the same program.
        off = dataclasses.replace(NOISY, network=eqx.nn.inference_mode(NOISY.network))
        np.testing.assert_allclose(off.loss(DATA, LABELS, key=key), QUIET.loss(DATA, LABELS, key=key), rtol=1e-6)

    def test_is_fitted_and_sampled(self, key):
        trained, history = fp.fit(NOISY, (DATA, LABELS), optax.adam(1e-2), key=key, **OPTIONS)
        assert np.isfinite(history["loss"]).all()
        again, _ = fp.fit(NOISY, (DATA, LABELS), optax.adam(1e-2), key=key, **OPTIONS)
        np.testing.assert_array_equal(trained.network.first.weight, again.network.first.weight)
        quiet, _ = fp.fit(QUIET, (DATA, LABELS), optax.adam(1e-2), key=key, **OPTIONS)
        assert np.abs(trained.network.first.weight - quiet.network.network.first.weight).max() > 1e-4
        samples = fp.sample(trained, 3, LABELS[:3], key=key)
        np.testing.assert_array_equal(samples, fp.sample(trained, 3, LABELS[:3], key=key))

    def test_conditions_are_dropped_beside_it_and_guided(self, key):
        model = fp.ConditionDropout(NOISY, 0.0, 0.5)
        quiet = fp.ConditionDropout(QUIET, 0.0, 0.5)
        losses = [m.loss(DATA, LABELS, key=key) for m in (model, quiet)]
        assert np.isfinite(losses).all()
        assert losses[0] != losses[1]
        z, x = jnp.array([0.3, -0.2]), jnp.array(0.7)
        guided = fp.guide(NOISY, 0.0, 2.5).velocity(0.4, z, x)
        wanted = 2.5 * QUIET.velocity(0.4, z, x) - 1.5 * QUIET.velocity(0.4, z, jnp.array(0.0))
        np.testing.assert_allclose(guided, wanted, rtol=1e-5)

    def test_pairs_train_it(self, key):
        pairs = fp.PairedFlow(NOISY), fp.PairedFlow(QUIET)
        noisy, quiet = (pair.loss(DATA[::-1], DATA, LABELS, key=key) for pair in pairs)
        assert np.isfinite(noisy)
        assert noisy != quiet


MOMENTUM = 0.8


class Normed(eqx.Module):
    """Batch normalisation of the condition, whose statistics are known, in front of a linear layer."""

    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self, key, mode="batch"):
        self.norm = eqx.nn.BatchNorm(2, axis_name="batch", mode=mode, momentum=MOMENTUM, channelwise_affine=False)
        self.linear = eqx.nn.Linear(4, 2, use_bias=False, key=key)

    def __call__(self, t, z, x, state):
        x, state = self.norm(x, state)
        return self.linear(jnp.concatenate([z, x])), state


class NormedWithKey(eqx.Module):
    normed: Normed
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.normed, self.dropout = Normed(key), eqx.nn.Dropout(0.5)

    def __call__(self, t, z, x, state, *, key=None):
        output, state = self.normed(t, z, x, state)
        return self.dropout(output, key=key), state


def stateful(make=Normed, key=1, **options):
    network, state = eqx.nn.make_with_state(make)(jax.random.key(key), **options)
    return fp.fm_flow(fp.nn.Stateful(network, state), shape=(2,))


CONDITIONS = np.random.default_rng(1).normal([3.0, -1.0], [2.0, 0.5], (64, 2)).astype(np.float32)


def normalised_by(flow, x):
    """The normalised condition of a flow in use, computed from the velocity at `z = 0`."""
    weight = np.asarray(flow.network.network.linear.weight)[:, 2:]
    return np.linalg.solve(weight, np.asarray(flow.velocity(0.5, jnp.zeros(2), x)))


@eqx.filter_jit
def step(flow, state, optimiser, x, key):
    """One training step by hand."""
    parameters, rest = eqx.partition(flow, fp.trainable(flow))

    def loss(parameters):
        value, metrics, new = eqx.combine(parameters, rest).loss(DATA[: len(x)], x, key=key)
        assert metrics == {}
        return value, new

    (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    updates, state = optimiser.update(gradient, state, parameters)
    # The parameters are the optimiser's, the state is the loss's.
    parameters = optax.apply_updates(parameters, updates)
    return eqx.combine(parameters, eqx.filter(new, fp.trainable(new), inverse=True)), state, value


class TestStateful:
    def test_the_loss_returns_the_flow_with_its_new_state(self, key):
        """With its "ema" mode, Equinox stores the statistics of the first batch unchanged."""
        flow = stateful(mode="ema")
        loss, metrics, new = flow.loss(DATA, CONDITIONS, key=key)
        assert (loss.shape, metrics, type(new)) == ((), {}, fp.Flow)
        x = jnp.array([1.0, 2.0])
        wanted = (np.asarray(x) - CONDITIONS.mean(axis=0)) / np.sqrt(CONDITIONS.var(axis=0) + 1e-5)
        np.testing.assert_allclose(normalised_by(new, x), wanted, rtol=1e-4)
        # The second takes a share of the next batch's.
        other = 2 * CONDITIONS - 1
        _, _, new = new.loss(DATA, other, key=key)
        mean, var = (
            MOMENTUM * getattr(CONDITIONS, f)(0) + (1 - MOMENTUM) * getattr(other, f)(0) for f in ("mean", "var")
        )
        np.testing.assert_allclose(normalised_by(new, x), (np.asarray(x) - mean) / np.sqrt(var + 1e-5), rtol=1e-4)
        # All but the state is the flow as it was.
        np.testing.assert_array_equal(new.network.network.linear.weight, flow.network.network.linear.weight)

    def test_the_loss_normalises_by_the_batch(self, key):
        flow = stateful()
        loss, _, _ = flow.loss(DATA, CONDITIONS, key=key)
        scaled = (CONDITIONS - CONDITIONS.mean(axis=0)) / np.sqrt(CONDITIONS.var(axis=0) + 1e-5)
        linear = flow.network.network.linear
        plain = fp.fm_flow(lambda t, z, x: linear(jnp.concatenate([z, x])), shape=(2,))
        np.testing.assert_allclose(loss, plain.loss(DATA, scaled, key=key), rtol=1e-5)

    def test_the_state_is_not_trained_and_training_moves_it(self, key):
        flow, optimiser = stateful(), optax.adamw(1e-2, weight_decay=0.1)
        assert not any(jax.tree.leaves(fp.trainable(flow.network.state)))
        state = optimiser.init(eqx.filter(flow, fp.trainable(flow)))
        weight = flow.network.network.linear.weight
        for k in jax.random.split(key, 30):
            flow, state, loss = step(flow, state, optimiser, CONDITIONS, k)
        assert np.isfinite(loss)
        assert np.abs(flow.network.network.linear.weight - weight).max() > 1e-2
        # What is left of the initial statistics is at most 0.8^30 = 0.1 %.
        x = jnp.array([1.0, 2.0])
        wanted = (np.asarray(x) - CONDITIONS.mean(axis=0)) / CONDITIONS.std(axis=0)
        np.testing.assert_allclose(normalised_by(flow, x), wanted, rtol=2e-2)

    def test_fit_trains_it_and_keeps_its_state(self, key):
        data = (DATA, CONDITIONS)
        trained, history = fp.fit(stateful(), data, optax.adam(1e-2), steps=40, batch_size=64, key=key, progress=False)
        assert np.isfinite(history["loss"]).all()
        x = jnp.array([1.0, 2.0])
        wanted = (np.asarray(x) - CONDITIONS.mean(axis=0)) / CONDITIONS.std(axis=0)
        np.testing.assert_allclose(normalised_by(trained, x), wanted, rtol=2e-2)
        averaged, _ = fp.fit(
            stateful(), data, optax.adam(1e-2), steps=40, batch_size=64, key=key, ema=0.9, progress=False
        )
        np.testing.assert_allclose(normalised_by(averaged, x), wanted, rtol=2e-2)

    def test_use_is_one_example_at_a_time(self, key):
        """In inference mode: no other example of the batch matters."""
        _, _, flow = stateful(mode="ema").loss(DATA, CONDITIONS, key=key)
        x = jnp.asarray(CONDITIONS[:3])
        points = fp.sample(flow, 3, x, key=key)
        np.testing.assert_allclose(fp.sample(flow, 1, x[:1], key=key), points[:1], atol=1e-6)
        np.testing.assert_allclose(fp.log_prob(flow, points, x)[:1], fp.log_prob(flow, points[:1], x[:1]), atol=1e-5)
        mean, std = CONDITIONS.mean(axis=0), np.sqrt(CONDITIONS.var(axis=0) + 1e-5)
        linear = flow.network.network.linear
        plain = fp.fm_flow(lambda t, z, x: linear(jnp.concatenate([z, (x - mean) / std])), shape=(2,))
        np.testing.assert_allclose(points, fp.sample(plain, 3, x, key=key), atol=1e-4)
        one = fp.sample(fp.given(flow, x[0]), 1, key=key)
        np.testing.assert_allclose(one, points[:1], atol=1e-6)
        z, null = jnp.array([0.3, -0.2]), jnp.zeros(2)
        guided = fp.guide(flow, null, 2.0).velocity(0.4, z, x[0])
        np.testing.assert_allclose(guided, 2 * flow.velocity(0.4, z, x[0]) - flow.velocity(0.4, z, null), rtol=1e-5)

    def test_may_take_a_key_too(self, key):
        flow = stateful(NormedWithKey)
        losses = [flow.loss(DATA, CONDITIONS, key=k)[0] for k in jax.random.split(key)]
        assert losses[0] != losses[1]
        quiet = dataclasses.replace(flow, network=fp.nn.Stateful(*unpacked(flow)))
        loss, _, _ = quiet.loss(DATA, CONDITIONS, key=key)
        assert flow.loss(DATA, CONDITIONS, key=key)[0] != loss
        z, x = jnp.array([0.3, -0.2]), jnp.array([1.0, 2.0])
        np.testing.assert_array_equal(flow.velocity(0.5, z, x), quiet.velocity(0.5, z, x))

    def test_is_saved_with_its_state(self, key, tmp_path):
        _, _, flow = stateful(mode="ema").loss(DATA, CONDITIONS, key=key)
        fp.save(tmp_path / "flow", flow)
        again = fp.load(tmp_path / "flow", stateful(key=7, mode="ema"))
        z, x = jnp.array([0.3, -0.2]), jnp.array([1.0, 2.0])
        np.testing.assert_array_equal(again.velocity(0.5, z, x), flow.velocity(0.5, z, x))
        # It goes on where it was.
        losses = [f.loss(DATA, CONDITIONS, key=key) for f in (flow, again)]
        np.testing.assert_array_equal(losses[0][0], losses[1][0])
        np.testing.assert_array_equal(*(f.velocity(0.5, z, x) for _, _, f in losses))

    def test_is_refused_where_the_state_would_be_lost(self):
        flow = stateful()
        with pytest.raises(ValueError, match="`flow` has a network with a state, which PairedFlow cannot train"):
            fp.PairedFlow(flow)
        with pytest.raises(ValueError, match="`flow` has a network with a state, which ConditionDropout cannot train"):
            fp.ConditionDropout(flow, jnp.zeros(2))


def unpacked(flow):
    """The network without its dropout, and its state."""
    stateful = flow.network
    off = eqx.tree_at(lambda n: n.dropout, stateful.network, eqx.nn.Dropout(0.5, inference=True))
    return off, stateful._plain_state


WRONG = {
    "integers": (lambda z: jnp.ones_like(z, int), "int32 numbers"),
    "booleans": (lambda z: z > 0, "bool numbers"),
    "complex": (lambda z: z + 0j, "complex64 numbers"),
    "a tuple": (lambda z: (z, z), "tuple"),
    "a list": (lambda z: [1.0, 2.0], "list"),
    "None": (lambda z: None, "NoneType"),
    "a number": (lambda z: 1.0, "float"),
}


class TestOutput:
    @pytest.mark.parametrize("name", WRONG)
    def test_must_be_a_floating_point_array(self, name, key):
        output, came = WRONG[name]
        flow = fp.fm_flow(lambda t, z, x: output(z), shape=(2,))
        message = rf"`network\(t, z, x\)` returned {came} where a floating-point array is needed"
        for call in (
            lambda: flow.velocity(0.5, jnp.zeros(2)),
            lambda: flow.loss(DATA, key=key),
            lambda: fp.sample(flow, 2, key=key),
            lambda: fp.log_prob(flow, DATA[:2]),
        ):
            with pytest.raises(TypeError, match=message) as caught:
                call()
            assert len(str(caught.value).splitlines()) == 1

    def test_must_have_the_shape_of_a_point(self, key):
        flow = fp.fm_flow(lambda t, z, x: z[:1], shape=(2,))
        for call in (lambda: flow.velocity(0.5, jnp.zeros(2)), lambda: flow.loss(DATA, key=key)):
            with pytest.raises(ValueError, match=r"`network\(t, z, x\)` has shape \(1,\) where \(2,\) is needed"):
                call()

    def test_may_come_from_numpy(self):
        flow = fp.fm_flow(lambda t, z, x: np.array([1.0, 2.0], np.float32), shape=(2,))
        np.testing.assert_array_equal(flow.velocity(0.5, jnp.zeros(2)), [1.0, 2.0])
