"""Validation, the best model, and what ends a training early."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._train.validation import split


KEY = jax.random.key(5)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
Y = np.arange(20) % 2


class Model(eqx.Module):
    weight: jax.Array
    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5)

    def loss(self, x, *, key):
        key_noise, key_dropout = jax.random.split(key)
        x = self.dropout(x, key=key_dropout)
        return jnp.mean(jnp.square(x @ self.weight - 1 + 0.1 * jax.random.normal(key_noise, x.shape[:1])))


class Labelled(eqx.Module):
    """A label above 1 makes the loss NaN."""

    weight: jax.Array

    def loss(self, x, labels, *, key):
        return jnp.mean(jnp.square(x @ self.weight - jnp.where(labels > 1, jnp.nan, labels)))


def fit(model=None, data=X, optimiser=None, **options):
    model = Model(jnp.zeros(3)) if model is None else model
    defaults = {"steps": 24, "batch_size": 4, "key": KEY, "evaluate_every": 4, "progress": False}
    return fp.fit(model, data, optax.adam(0.1) if optimiser is None else optimiser, **(defaults | options))


class TestValidationLoss:
    def test_it_is_the_mean_of_a_loop_by_hand(self):
        """At least 2,048 draws: passes over the rows in a random order, each batch with a key of its own."""
        model, history = fit(validation=X[:9], monitor=None)
        quiet = eqx.nn.inference_mode(model)
        key_order, key_loss = jax.random.split(jax.random.fold_in(KEY, 1_000_033))
        passes = 256  # 8 of the 9 rows in each
        batches = []
        for key in jax.random.split(key_order, passes):
            order = jax.random.permutation(key, 9)
            batches += [order[:4], order[4:8]]
        losses = jax.jit(jax.vmap(lambda rows, key: quiet.loss(jnp.asarray(X)[rows], key=key)))(
            jnp.stack(batches), jax.random.split(key_loss, 2 * passes)
        )
        np.testing.assert_allclose(history["validation_loss"].min(), losses.mean(), rtol=1e-5)

    def test_the_same_model_has_the_same_value(self):
        _, history = fit(optimiser=optax.sgd(0.0), validation=0.3)
        assert history["validation_loss"].shape == (7,)
        assert np.unique(history["validation_loss"]).size == 1

    def test_the_split_depends_on_the_key_and_is_disjoint(self):
        train, held_out = split(20, 0.3, key=KEY)
        assert sorted([*train, *held_out]) == [*range(20)]
        assert len(held_out) == 6
        np.testing.assert_array_equal(held_out, split(20, 0.3, key=KEY)[1])
        assert {*held_out} != {*split(20, 0.3, key=jax.random.key(6))[1]}

    def test_rows_for_validation_are_not_trained_on(self):
        class Visits(eqx.Module):
            counts: jax.Array

            def loss(self, rows, *, key):
                return jnp.sum(self.counts[rows])

        options = {"monitor": "last", "mode": "max", "evaluate": last()}
        model, _ = fit(Visits(jnp.zeros(20)), np.arange(20), optax.sgd(1.0), validation=0.4, steps=3, **options)
        np.testing.assert_array_equal(np.flatnonzero(model.counts), split(20, 0.4, key=KEY)[0])


def last():
    """An evaluation whose value grows, so that the last model is the best."""
    values = iter(range(100))
    return lambda model: {"last": next(values)}


def scores(*values):
    """An evaluation that gives these numbers, and a list of the models that it saw."""
    found, seen = iter(values), []

    def evaluate(model):
        seen.append(model)
        return {"score": next(found)}

    return evaluate, seen


class TestBestModel:
    @pytest.mark.parametrize(
        ("mode", "values", "best"),
        [
            ("min", (3.0, 1.0, 2.0, 5.0), 1),
            ("max", (3.0, 1.0, 4.0, 4.0), 2),
            ("min", (np.nan, 2.0, np.nan, 3.0), 1),
            ("max", (np.nan, 2.0, np.nan, 3.0), 3),
            ("min", (np.inf, np.inf, 1e9, np.nan), 2),
        ],
    )
    def test_the_best_is_returned(self, mode, values, best):
        evaluate, seen = scores(*values)
        model, history = fit(steps=12, evaluate=evaluate, monitor="score", mode=mode)
        assert history.best_step == 4 * best == history["evaluation_step"][best]
        np.testing.assert_array_equal(model.weight, seen[best].weight)
        assert not np.array_equal(seen[1].weight, seen[2].weight)

    def test_without_a_number_the_last_is_returned(self):
        evaluate, seen = scores(*[np.nan] * 4)
        model, history = fit(steps=12, evaluate=evaluate, monitor="score")
        assert history.best_step is None
        np.testing.assert_array_equal(model.weight, seen[-1].weight)

    def test_patience(self):
        evaluate, seen = scores(5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 9.0)
        model, history = fit(steps=100, evaluate=evaluate, monitor="score", patience=2)
        assert (history.stopped, history["step"][-1], history.best_step) == ("patience", 20, 12)
        np.testing.assert_array_equal(model.weight, seen[3].weight)


class TestEnds:
    def test_a_callback_ends_the_training(self):
        reports = []

        def callback(report):
            reports.append(report)
            return report.step == 8

        model, history = fit(validation=0.3, callbacks=[callback, lambda report: None], ema=0.9)
        assert (history.stopped, [r.step for r in reports]) == ("callback", [0, 4, 8])
        assert reports[0].values.keys() == {"validation_loss"}
        np.testing.assert_allclose(reports[2].values["loss"], history["loss"][4:8].mean(), rtol=1e-6)
        np.testing.assert_allclose([r.values["validation_loss"] for r in reports], history["validation_loss"])
        np.testing.assert_array_equal(model.weight, reports[history.best_step // 4].model.weight)

    def test_epochs(self):
        _, history = fit(steps=None, epochs=3, batch_size=6)
        assert history["step"][-1] == 9

    def test_an_error_of_evaluate_loses_nothing(self, tmp_path):
        calls = iter(range(100))

        def evaluate(model):
            if next(calls) == 2:
                raise RuntimeError("the disk is full")
            return {"a": 1.0}

        with pytest.raises(RuntimeError, match="the disk is full") as caught:
            fit(evaluate=evaluate, checkpoint=tmp_path / "run")
        assert "at step 8" in caught.value.__notes__[0]
        assert "saved the training after step 8" in caught.value.__notes__[1]
        assert int(caught.value.history.state.training.step) == 8
        undisturbed, _ = fit()
        for options in ({"checkpoint": tmp_path / "run"}, {"state": caught.value.history.state}):
            model, _ = fit(evaluate=lambda model: {"a": 1.0}, **options)
            np.testing.assert_array_equal(model.weight, undisturbed.weight)


class TestNonFiniteLoss:
    @pytest.mark.parametrize("streamed", [False, True])
    def test_the_step_and_the_rows_are_named_and_the_state_goes_on(self, streamed, tmp_path):
        labels = np.where(np.arange(20) == 13, 7, Y)
        data = [(X[i : i + 3], labels[i : i + 3]) for i in range(0, 20, 3)]
        options = {"model": Labelled(jnp.zeros(3)), "checkpoint": tmp_path / "run", "steps_per_call": 4}
        with pytest.raises(fp.NonFiniteLossError, match=r"the loss is nan at step \d+ for row \d+ of `data`") as caught:
            fit(data=Again(data) if streamed else (X, labels), **options)
        error = caught.value
        # Row 13 is in the fourth batch of four rows, and is the second of this.
        assert error.rows == ([1] if streamed else [13])
        assert error.step == 4 if streamed else error.step <= 5
        done = error.step - 1
        assert len(error.history["loss"]) == done == int(error.history.state.training.step)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(error.history.state.training.parameters))
        # With data that are mended, the state goes on like a training that had them from the beginning.
        if not streamed:
            options = {"model": Labelled(jnp.zeros(3)), "data": (X, Y), "optimiser": optax.adam(0.1)}
            other, _ = fit(**options)
            model, _ = fit(**options, state=error.history.state)
            np.testing.assert_array_equal(model.weight, other.weight)

    def test_a_learning_rate_that_is_too_large(self):
        class Steep(eqx.Module):
            weight: jax.Array

            def loss(self, x, *, key):
                return jnp.sum(jnp.exp(self.weight**2)) + 0 * x.sum()

        with pytest.raises(fp.NonFiniteLossError, match="lower the learning rate") as caught:
            fit(Steep(jnp.ones(3)), optimiser=optax.sgd(10.0))
        assert caught.value.rows == []
        assert np.isfinite(caught.value.history["loss"]).all()
        assert np.isfinite(caught.value.model.weight).all()


class Again:
    """A list as an iterable of batches."""

    def __init__(self, items):
        self._items = items

    def __iter__(self):
        return iter(self._items)


NAN = np.where(np.arange(60).reshape(20, 3) == 7, np.nan, X)

# What is wrong -> options of `fit`, and the message.
BAD = {
    "no steps": ({"steps": None}, "`steps` and `epochs`: give one of the two"),
    "both steps and epochs": ({"epochs": 2}, "`steps` and `epochs`: give one of the two"),
    "zero steps": ({"steps": 0}, "`steps` is 0"),
    "negative epochs": ({"steps": None, "epochs": -1}, "`epochs` is -1"),
    "steps as a float": ({"steps": 1e3}, "`steps` is 1000.0"),
    "batch larger than data": ({"batch_size": 21}, "`batch_size` is 21 where `data` has 20 examples"),
    "batch of none": ({"batch_size": 0}, "`batch_size` is 0"),
    "batch larger than what is left": ({"batch_size": 18, "validation": 0.3}, "14 examples are left for training"),
    "share above one": ({"validation": 1.5}, "`validation` is 1.5"),
    "share of nothing": ({"validation": 0.01}, "which leaves 0 of 20 examples for validation"),
    "share as a bool": ({"validation": True}, "`validation` is True"),
    "NaN in validation": ({"validation": NAN}, r"`validation\[0\]` has NaN in row 2"),
    "entries of validation": ({"validation": (X, Y)}, "2 entries"),
    "empty validation": ({"validation": X[:0]}, "it has no examples"),
    "validation of other columns": ({"validation": X[:, :2]}, "`validation`"),
    "patience without a number": ({"patience": 2}, "`patience` needs a number to watch"),
    "zero patience": ({"patience": 0, "validation": 0.3}, "`patience` is 0"),
    "monitor of nothing": ({"monitor": "loss"}, "`monitor` is 'loss', and nothing is evaluated"),
    "unknown monitor": ({"monitor": "accuracy", "validation": 0.3}, r"`monitor` is 'accuracy': give one of \["),
    "unknown mode": ({"mode": "largest"}, "`mode` is 'largest'"),
    "clash of names": (
        {"validation": 0.3, "evaluate": lambda model: {"validation_loss": 1.0}},
        r"`evaluate` returns \['validation_loss'\], names that the history already has",
    ),
    "evaluate gives a number": ({"evaluate": lambda model: 1.0}, "`evaluate` returns 1.0: return a dict"),
    "zero evaluate_every": ({"evaluate_every": 0}, "`evaluate_every` is 0"),
    "zero checkpoint_every": ({"checkpoint_every": 0}, "`checkpoint_every` is 0"),
    "checkpoint as a number": ({"checkpoint": 3}, "`checkpoint` is 3"),
    "callback that cannot be called": ({"callbacks": 3}, "`callbacks` is 3"),
    "zero average": ({"ema": 0.0}, "`ema` is 0.0"),
    "average of one": ({"ema": 1}, "`ema` is 1"),
    "seed for a key": ({"key": 0}, "`key` is 0"),
    "learning rate for an optimiser": ({"optimiser": 1e-3}, "`optimiser` is 0.001 where an Optax optimiser is needed"),
    "NaN in data": ({"data": NAN}, r"`data\[0\]` has NaN in row 2"),
    "no data": ({"data": X[:0]}, "it has no examples"),
    "data as text": ({"data": "points.npy"}, "`data` is 'points.npy'"),
    "stream with weights": ({"data": Again([X]), "weights": np.ones(20)}, "`weights` is given where `data` is an iter"),
    "stream with a share": ({"data": Again([X]), "validation": 0.3}, "`validation` is 0.3 where `data` is an iterable"),
    "stream with epochs": ({"data": Again([X]), "steps": None, "epochs": 1}, "`epochs` is given where `data` is an it"),
    "empty stream": ({"data": Again([])}, "`data` is an iterable without batches"),
    "ended generator": ({"data": iter([])}, "`data` is an iterator without batches"),
    "stream of text": ({"data": Again(["a"])}, "`data"),
    "NaN in a stream": ({"data": Again([NAN])}, r"`data\[0\]` has NaN in row 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_step(name, tmp_path):
    options, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        fit(**({"checkpoint": tmp_path / "run"} | options))
    assert not hasattr(caught.value, "history")
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_a_state_of_another_training_is_refused(tmp_path):
    _, history = fit(steps=2)
    for options, part in (
        ({"model": Model(jnp.zeros(4)), "data": np.ones((20, 4), np.float32)}, "parameters"),
        ({"optimiser": optax.sgd(0.1)}, "optimiser"),
        ({"ema": 0.9}, "average"),
    ):
        with pytest.raises(ValueError, match=f"`state` belongs to another training, with another `{part}`"):
            fit(**options, state=history.state)
    with pytest.raises(ValueError, match="`checkpoint` and `state` are both given"):
        fit(state=history.state, checkpoint=tmp_path / "run")
    assert [*tmp_path.iterdir()] == []
