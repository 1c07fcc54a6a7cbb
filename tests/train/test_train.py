"""`fit` compared with loops written out by hand."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._train.devices import Layout
from flowprop._train.loop import Loop, Source


class Regression(eqx.Module):
    """A linear regression whose loss is random, like that of a flow."""

    weight: jax.Array
    bias: jax.Array

    def loss(self, x, y, *, key):
        noise = 0.1 * jax.random.normal(key, y.shape)
        return jnp.mean(jnp.square(x @ self.weight + self.bias - y + noise))


class Visits(eqx.Module):
    """With SGD at learning rate 1, each number decreases by 1 each time its row is used."""

    counts: jax.Array

    def loss(self, rows, *, key):
        return jnp.sum(self.counts[rows])


DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((20, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3).astype(np.float32)
KEY = jax.random.key(5)


def regression():
    return Regression(jnp.zeros(3), jnp.zeros(1))


def fit(model=None, data=(X, Y), optimiser=None, **kwargs):
    settings = {"steps": 30, "batch_size": 6, "key": KEY, "progress": False} | kwargs
    model = regression() if model is None else model
    return fp.fit(model, data, optax.adam(0.05) if optimiser is None else optimiser, **settings)


@functools.cache
def plain():
    """30 steps of Adam, which several tests use. It is cached, since each call of `fit` compiles again."""
    return fit()


@functools.cache
def averaged():
    return fit(ema=0.6)


def shifted(example, *, key):
    """An augmentation: the example, shifted at random."""
    return example + 0.2 * jax.random.normal(key, example.shape)


def trajectory(**kwargs):
    """The weights after every step."""
    seen = []

    def evaluate(model):
        seen.append(np.asarray(model.weight))
        return {}

    fit(evaluate=evaluate, evaluate_every=1, **kwargs)
    return np.stack(seen[1:])


class TestReproducibility:
    def test_the_same_key_gives_the_same_result(self):
        (one, history), (same, again) = plain(), fit()
        assert eqx.tree_equal(one, same)
        np.testing.assert_array_equal(history["loss"], again["loss"])

    def test_another_key_gives_another(self):
        assert np.all(plain()[1]["loss"] != fit(key=jax.random.key(6))[1]["loss"])

    def test_steps_per_call_do_not_matter(self):
        for count in (1, 7):  # the default is 50
            model, history = fit(steps_per_call=count)
            # The same arithmetic, compiled separately: only rounding differs.
            np.testing.assert_allclose(history["loss"], plain()[1]["loss"], rtol=1e-5)
            np.testing.assert_allclose(model.weight, plain()[0].weight, rtol=1e-5)

    def test_evaluations_do_not_matter(self):
        _, evaluated = fit(evaluate=lambda model: {}, evaluate_every=4)
        np.testing.assert_allclose(evaluated["loss"], plain()[1]["loss"], rtol=1e-5)

    @pytest.mark.parametrize("augmented", [False, True])
    def test_equals_a_loop_by_hand(self, augmented):
        """The order and the keys are drawn as `fit` draws them. The rest is written out."""
        bits = [np.asarray(leaf).view(np.uint32) for leaf in jax.tree.leaves(regression())]
        drawn = jax.random.fold_in(KEY, np.concatenate(bits).sum(dtype=np.uint32))
        optimiser, model, order, losses = optax.adam(0.05), regression(), None, []
        state = optimiser.init(model)
        step = jax.jit(jax.value_and_grad(lambda model, x, y, key: model.loss(x, y, key=key)))
        for i in range(30):
            key_order, key_loss, key_augment = jax.random.split(jax.random.fold_in(drawn, i), 3)
            if i % 3 == 0:
                order = np.asarray(jax.random.permutation(key_order, 20))
            rows = order[6 * (i % 3) : 6 * (i % 3) + 6]
            x = X[rows]
            if augmented:
                x = np.stack(
                    [shifted(row, key=key) for row, key in zip(x, jax.random.split(key_augment, 6), strict=True)]
                )
            value, gradient = step(model, x, Y[rows], key_loss)
            updates, state = optimiser.update(gradient, state, model)
            model = optax.apply_updates(model, updates)
            losses.append(float(value))
        found, history = fit(augment=shifted) if augmented else plain()
        # The rounding of 30 steps, in another order of operations.
        np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
        np.testing.assert_allclose(found.weight, model.weight, rtol=1e-5)
        assert losses[-1] < 0.5 * losses[0]


class TestOrder:
    @staticmethod
    def visited(steps, batch_size, n=10):
        found, _ = fit(
            Visits(jnp.zeros(n)), (np.arange(n),), optax.sgd(1.0), steps=steps, batch_size=batch_size, steps_per_call=1
        )
        return -np.asarray(found.counts).astype(int)

    def test_each_epoch_visits_every_example_once(self):
        np.testing.assert_array_equal(self.visited(2, 5), np.ones(10))
        np.testing.assert_array_equal(self.visited(6, 5), np.full(10, 3))

    def test_the_last_incomplete_batch_of_an_epoch_is_dropped(self):
        assert sorted(self.visited(2, 4)) == [0] * 2 + [1] * 8
        # Each epoch has another order: after twelve epochs all examples have been used.
        assert np.min(self.visited(24, 4)) > 0

    def test_batches_are_shuffled_anew_each_epoch(self):
        seen = []

        def evaluate(model):
            seen.append(-np.asarray(model.counts))
            return {}

        data = (np.arange(10),)
        fit(Visits(jnp.zeros(10)), data, optax.sgd(1.0), steps=4, batch_size=5, evaluate=evaluate, evaluate_every=1)
        first, second = np.flatnonzero(seen[1]), np.flatnonzero(seen[3] - seen[2])
        assert len(first) == len(second) == 5
        assert list(first) != list(range(5))
        assert list(first) != list(second)

    def test_batches_are_the_same_rows_of_every_array(self):
        class Paired(eqx.Module):
            weight: jax.Array

            def loss(self, a, b, *, key):
                return self.weight + jnp.sum(jnp.square(a - b[:, 0]))

        rows = np.arange(12.0, dtype=np.float32)
        _, history = fit(Paired(jnp.zeros(())), (rows, rows[:, None]), optax.sgd(0.0), steps=4, batch_size=4)
        np.testing.assert_array_equal(history["loss"], np.zeros(4))

    def test_types_of_data_are_kept(self):
        seen = []

        class Typed(eqx.Module):
            weight: jax.Array

            def loss(self, images, labels, *, key):
                seen.extend([images.dtype, labels.dtype])
                return self.weight

        fit(Typed(jnp.zeros(())), (np.zeros((4, 2), np.uint8), np.zeros(4, np.int32)), steps=1, batch_size=2)
        assert set(zip(seen[::2], seen[1::2], strict=True)) == {(np.dtype(np.uint8), np.dtype(np.int32))}


class TestAugmentation:
    class Spread(eqx.Module):
        """The loss is the spread of the examples in a batch, or 1000 if a target is not 0."""

        weight: jax.Array

        def loss(self, x, y, *, key):
            return 0 * self.weight + jnp.std(x) + 1000 * jnp.max(jnp.abs(y))

    def spreads(self, **kwargs):
        data = np.zeros((40, 2), np.float32), np.zeros((40, 2), np.float32)
        return fit(self.Spread(jnp.zeros(())), data, optax.sgd(0.1), steps=5, batch_size=20, **kwargs)[1]["loss"]

    def test_changes_each_example_of_the_first_array_differently(self):
        found = self.spreads(augment=shifted)
        # The standard deviation of 40 draws, within 4 standard errors.
        np.testing.assert_allclose(found, np.full(5, 0.2), rtol=4 / np.sqrt(2 * 40))
        assert len(set(found)) == 5

    def test_follows_the_key(self):
        one, same, other = (self.spreads(augment=shifted, key=jax.random.key(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.all(one != other)

    def test_is_none_by_default(self):
        np.testing.assert_array_equal(self.spreads(), np.zeros(5))


class TestAverage:
    def test_equals_a_computation_by_hand(self):
        weights = trajectory()
        average = np.zeros(3)
        for step, weight in enumerate(weights):
            decay = min(0.6, step / (step + 10))
            average = decay * average + (1 - decay) * weight
        found, history = averaged()
        np.testing.assert_allclose(found.weight, average, rtol=1e-5)
        # Training itself is the same as without an average.
        np.testing.assert_allclose(history["loss"], plain()[1]["loss"], rtol=1e-5)
        assert np.max(np.abs(average - weights[-1])) > 1e-3

    def test_evaluations_get_it(self):
        np.testing.assert_allclose(trajectory(ema=0.6)[-1], averaged()[0].weight, rtol=1e-6)


class TestTheCallersModel:
    def test_is_not_changed(self):
        model = regression()
        found, _ = fit(model, ema=0.6)
        np.testing.assert_array_equal(model.weight, np.zeros(3))
        assert np.min(np.abs(found.weight)) > 0.1

    def test_stays_valid_with_an_optimiser_that_keeps_its_arrays(self):
        """The donated state must not hold the caller's own buffers."""

        def update(gradient, anchor, parameters=None):
            anchor = jax.tree.map(lambda a, g: 0.9 * a + g, anchor, gradient)
            return jax.tree.map(jnp.negative, anchor), anchor

        keeps = optax.GradientTransformation(lambda parameters: parameters, update)
        model = regression()
        fit(model, optimiser=keeps, steps=3)
        np.testing.assert_array_equal(model.weight, np.zeros(3))

    def test_evaluations_can_keep_models(self):
        kept = []
        fit(steps=6, evaluate=lambda model: kept.append(model) or {}, evaluate_every=2)
        values = [np.asarray(model.weight) for model in kept]
        assert len(values) == 4
        assert np.all(values[1] != values[3])


class TestHistory:
    def test_without_evaluation(self):
        _, history = plain()
        assert set(history) == {"step", "loss"}
        np.testing.assert_array_equal(history["step"], np.arange(1, 31))
        assert history["loss"].shape == (30,)
        assert np.all(np.isfinite(history["loss"]))

    @pytest.mark.parametrize(
        ("every", "steps_per_call", "wanted"),
        [(None, None, [0, 10]), (4, 3, [0, 4, 8, 10]), (5, 1, [0, 5, 10])],
    )
    def test_with_evaluation(self, every, steps_per_call, wanted):
        calls = []

        def evaluate(model):
            calls.append(float(model.weight[0]))
            return {"first": calls[-1], "count": len(calls)}

        _, history = fit(steps=10, evaluate=evaluate, evaluate_every=every, steps_per_call=steps_per_call)
        assert set(history) == {"step", "loss", "evaluation_step", "first", "count"}
        np.testing.assert_array_equal(history["evaluation_step"], wanted)
        np.testing.assert_array_equal(history["count"], np.arange(1, len(wanted) + 1))
        np.testing.assert_array_equal(history["first"], calls)
        assert history["loss"].shape == (10,)


class TestStepsPerCall:
    @staticmethod
    def loop(model, shape):
        example = Source((jax.ShapeDtypeStruct(shape, jnp.float32),))
        options = {"steps_per_call": None, "streamed": False, "layout": Layout()}
        return Loop(fp.Trainer(model, optax.sgd(0.1)), example, batch_size=2, key=jax.random.key(0), **options)

    def test_many_for_a_perceptron(self):
        network = fp.nn.MLP(shape=(2,), width=4, depth=1, key=KEY)
        assert self.loop(fp.fm_flow(network, shape=(2,)), (2,)).steps_per_call == 50

    def test_one_for_convolutions_on_a_cpu(self):
        """There XLA runs their gradients about ten times slower inside a loop (jax-ml/jax#12868)."""

        class Encoded(eqx.Module):
            encoder: fp.nn.ConvEncoder

            def loss(self, images, *, key):
                return jnp.mean(jax.vmap(self.encoder)(images))

        model = Encoded(fp.nn.ConvEncoder((4, 4, 1), 3, channels=(2,), key=KEY))
        wanted = 1 if jax.default_backend() == "cpu" else 50
        assert self.loop(model, (4, 4, 1)).steps_per_call == wanted


class TestProgress:
    def test_none(self, capfd):
        fit(steps=3)
        assert capfd.readouterr() == ("", "")

    def test_some(self, capfd):
        fit(steps=3, progress=True)
        out, err = capfd.readouterr()
        assert out == ""
        assert "3/3" in err
        assert "loss=" in err


class TestLossesThatAreNotFinite:
    def test_at_the_end(self):
        class Falling(eqx.Module):
            weight: jax.Array

            def loss(self, rows, *, key):
                return jnp.sqrt(self.weight)

        with pytest.raises(FloatingPointError, match="the loss is nan at step 5: lower the learning rate"):
            fit(Falling(jnp.ones(())), optimiser=optax.sgd(0.5), data=(X,), steps=40)

    def test_during_training(self):
        class Returning(eqx.Module):
            weight: jax.Array

            def loss(self, rows, *, key):
                # At learning rate 0.5 the weight is 1, 1/2, -1/2, 1/2, -1/2, ...: every second logarithm is NaN.
                return jnp.log(self.weight)

        with pytest.raises(FloatingPointError, match="the loss is nan at step 3:"):
            fit(Returning(jnp.ones(())), optimiser=optax.sgd(0.5), data=(X,), steps=4)


def test_at_most_one_call_waits_for_the_device(monkeypatch):
    """Otherwise the progress bar, an interruption and a loss that is not finite would be delayed by minutes."""
    calls, call = [], Loop.__call__
    monkeypatch.setattr(Loop, "__call__", lambda self, *args: calls.append(args[-1]) or call(self, *args))

    class Broken(eqx.Module):
        weight: jax.Array

        def loss(self, rows, *, key):
            return self.weight / 0

    with pytest.raises(FloatingPointError, match="the loss is inf at step 1:"):
        fit(Broken(jnp.ones(())), data=(X,), steps=1000, steps_per_call=1)
    assert calls == [1, 1]


def test_labels_out_of_range_are_found_before_the_first_step():
    flow = fp.fm_flow(fp.nn.MLP(shape=(2,), condition_size=1, width=4, depth=1, key=KEY), shape=(2,))
    classifier = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(2))
    with pytest.raises(ValueError, match="`labels` lie in"):
        fit(classifier, (np.zeros((4, 1), np.float32), np.array([0, 1, 2, 0])), steps=4, batch_size=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": 21}, "`batch_size` is 21 where `data` has 20 examples"),
        ({"steps": 0}, "`steps` is 0"),
        ({"evaluate_every": 0}, "`evaluate_every` is 0"),
        ({"steps_per_call": -1}, "`steps_per_call` is -1"),
        ({"ema": 0.0}, "`ema` is 0.0"),
        ({"ema": 1}, "`ema` is 1"),
        ({"ema": math.nan}, "`ema` is nan"),
        ({"ema": np.float32(1)}, "`ema` is 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(**arguments)
