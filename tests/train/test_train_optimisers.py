"""`fit` with the optimisers of Optax, compared with loops written out by hand."""

import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


KEY = jax.random.key(5)
#: One batch holds all of it, so that training has nothing random.
X = (np.random.default_rng(0).standard_normal((64, 2)) * [1.0, 3.0] + [5.0, -2.0]).astype(np.float32)


class Mean(eqx.Module):
    """A model whose best parameters are the means of the columns."""

    w: jax.Array

    def loss(self, x, *, key):
        return jnp.mean(jnp.sum(jnp.square(self.w[None] - x), axis=1))


class Distance(eqx.Module):
    w: jax.Array

    def loss(self, rows, *, key):
        return jnp.abs(self.w)


def fit(optimiser, steps=30, model=None, data=X, **kwargs):
    settings = {"batch_size": len(data), "key": KEY, "progress": False} | kwargs
    return fp.fit(Mean(jnp.zeros(2)) if model is None else model, data, optimiser, steps=steps, **settings)


def by_hand(optimiser, steps=30, pair=False):
    """The parameters after each step, and the optimiser's states."""
    parameters = jnp.zeros(2)
    parameters = optax.LookaheadParams(parameters, parameters) if pair else parameters
    state, found = optimiser.init(parameters), []
    for _ in range(steps):
        gradient = 2 * ((parameters.fast if pair else parameters) - X.mean(axis=0))
        updates, state = optimiser.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        found.append((parameters, state))
    return found


def trajectory(optimiser, **kwargs):
    """The parameters that `evaluate` sees after each step."""
    seen = []
    fit(optimiser, evaluate=lambda m: seen.append(np.asarray(m.w)) or {}, evaluate_every=1, **kwargs)
    return np.stack(seen[1:])


class TestScheduleFree:
    optimiser = optax.contrib.schedule_free_adamw(0.1, warmup_steps=5)

    @staticmethod
    def evaluated(optimiser=optimiser):
        return np.stack([optax.contrib.schedule_free_eval_params(s, y) for y, s in by_hand(optimiser)])

    def test_the_returned_model_has_the_parameters_for_use(self):
        wanted = self.evaluated()
        np.testing.assert_allclose(fit(self.optimiser)[0].w, wanted[-1], rtol=1e-5)
        # The parameters at which gradients are evaluated differ.
        assert np.min(np.abs(by_hand(self.optimiser)[-1][0] - wanted[-1])) > 0.05

    def test_so_has_the_evaluated_model(self):
        np.testing.assert_allclose(trajectory(self.optimiser), self.evaluated(), rtol=1e-5)

    def test_so_has_the_averaged_model(self):
        average = np.zeros(2)
        for step, x in enumerate(self.evaluated()):
            decay = min(0.8, step / (step + 10))
            average = decay * average + (1 - decay) * x
        np.testing.assert_allclose(fit(self.optimiser, ema=0.8)[0].w, average, rtol=1e-5)

    def test_inside_a_chain(self):
        chain = optax.chain(optax.clip_by_global_norm(1e6), self.optimiser)
        np.testing.assert_allclose(fit(chain)[0].w, self.evaluated()[-1], rtol=1e-5)

    def test_for_some_of_the_parameters(self):
        class Two(eqx.Module):
            free: Mean
            other: Mean

            def loss(self, x, *, key):
                return self.free.loss(x, key=key) + self.other.loss(x, key=key)

        labels = Two(Mean("free"), Mean("other"))
        optimiser = optax.multi_transform({"free": self.optimiser, "other": optax.sgd(0.1)}, labels)
        found, _ = fit(optimiser, model=Two(Mean(jnp.zeros(2)), Mean(jnp.zeros(2))))
        np.testing.assert_allclose(found.free.w, self.evaluated()[-1], rtol=1e-5)
        np.testing.assert_allclose(found.other.w, by_hand(optax.sgd(0.1))[-1][0], rtol=1e-5)


class TestLookahead:
    optimiser = optax.lookahead(optax.sgd(0.05), sync_period=5, slow_step_size=0.5)

    def test_the_slow_parameters_are_the_result(self):
        wanted = [parameters.slow for parameters, _ in by_hand(self.optimiser, pair=True)]
        np.testing.assert_allclose(trajectory(self.optimiser), wanted, rtol=1e-5)

    def test_logs_no_warning(self, caplog):
        with caplog.at_level(logging.WARNING):
            fit(self.optimiser, steps=1)
        assert caplog.records == []


class TestGradientAccumulation:
    def test_equals_one_large_batch(self):
        accumulated, _ = fit(optax.MultiSteps(optax.sgd(0.1), 4), steps=16, batch_size=16)
        at_once, _ = fit(optax.sgd(0.1), steps=4)
        np.testing.assert_allclose(accumulated.w, at_once.w, rtol=1e-5)

    def test_its_transformation_is_the_same(self):
        accumulated = optax.MultiSteps(optax.sgd(0.1), 4)
        one, other = (fit(o, steps=16, batch_size=16)[0] for o in (accumulated, accumulated.gradient_transformation()))
        assert eqx.tree_equal(one, other)


@pytest.mark.parametrize("steps_per_call", [1, 50])
def test_lbfgs_finds_the_minimum_of_a_quadratic(steps_per_call):
    found, _ = fit(optax.lbfgs(), steps=8, steps_per_call=steps_per_call)
    np.testing.assert_allclose(found.w, X.mean(axis=0), rtol=1e-5)


def test_one_that_needs_the_value():
    """Steps of 0.3 oscillate around the minimum of `|w|`; if they are halved on a plateau, they converge."""
    model, data = Distance(jnp.ones(())), np.zeros(1)
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    settled, _ = fit(optax.chain(optax.sgd(0.3), plateau), 150, model, data)
    moving, _ = fit(optax.sgd(0.3), 150, model, data)
    assert abs(float(settled.w)) < 0.01 < 0.09 < abs(float(moving.w))


def test_one_with_a_schedule():
    """The learning rate is 0 from the third step on."""
    weights = trajectory(optax.sgd(optax.piecewise_constant_schedule(0.1, {2: 0.0})), steps=5)
    assert np.all(weights[0] != weights[1])
    np.testing.assert_array_equal(weights[1:], np.broadcast_to(weights[1], (4, 2)))


def test_one_with_masks_over_the_tree_of_parameters():
    class Two(eqx.Module):
        first: Mean
        second: Mean

        def loss(self, x, *, key):
            return self.first.loss(x, key=key) + self.second.loss(x, key=key)

    labels = Two(Mean("train"), Mean("freeze"))
    optimiser = optax.multi_transform({"train": optax.adam(0.1), "freeze": optax.set_to_zero()}, labels)
    found, _ = fit(optimiser, model=Two(Mean(jnp.zeros(2)), Mean(jnp.zeros(2))))
    np.testing.assert_array_equal(found.second.w, np.zeros(2))
    assert np.min(np.abs(found.first.w)) > 0.1


def test_clipped_gradients():
    weights = trajectory(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0)), steps=4)
    lengths = np.linalg.norm(np.diff(weights, axis=0), axis=1)
    np.testing.assert_allclose(lengths, np.full(3, 0.1), rtol=1e-5)


class TestApplyIfFinite:
    class Sometimes(eqx.Module):
        """A loss that is NaN, with its gradient, in about every third step."""

        w: jax.Array
        threshold: float

        def loss(self, x, *, key):
            return jnp.square(self.w - 1) * jnp.where(jax.random.normal(key) > self.threshold, jnp.nan, 1.0)

    def test_skips_steps_that_are_not_finite(self):
        optimiser = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=20)
        found, history = fit(optimiser, 100, self.Sometimes(jnp.zeros(()), 0.4), ema=0.9)
        bad = np.isnan(history["loss"])
        assert 10 < bad.sum() < 60
        # Each finite step multiplies the distance by 0.8, and the loss is its square.
        np.testing.assert_allclose(history["loss"][~bad], 0.64 ** np.arange(np.sum(~bad)), rtol=1e-3, atol=1e-12)
        assert abs(float(found.w) - 1) < 1e-3
        assert set(history) == {"step", "loss"}

    def test_an_error_once_it_gives_up(self):
        optimiser = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=3)
        with pytest.raises(FloatingPointError, match="the loss is nan at step 4"):
            fit(optimiser, 100, self.Sometimes(jnp.zeros(()), -10.0))

    def test_an_error_without_it(self):
        with pytest.raises(FloatingPointError, match="the loss is nan"):
            fit(optax.sgd(0.1), 100, self.Sometimes(jnp.zeros(()), 0.4))


class TestHalfPrecision:
    def test_the_average_follows_the_parameters(self):
        """The parameter is 0 for 6,000 steps, then 1. In bfloat16 the decay 0.999 would be rounded to 1."""

        class Ramp(eqx.Module):
            w: jax.Array

            def loss(self, x, *, key):
                return -self.w

        rate = optax.piecewise_interpolate_schedule("linear", 1.0, {1: 1.0})
        optimiser = optax.sgd(lambda step: jnp.where(step == 6000, rate(0), 0.0).astype(jnp.bfloat16))
        model = Ramp(jnp.zeros((), jnp.bfloat16))
        found, _ = fit(optimiser, 8000, model, np.zeros((1, 1), np.float32), ema=0.999)
        average = 0.0
        for step in range(8000):
            decay = min(0.999, step / (step + 10))
            average = decay * average + (1 - decay) * (step >= 6000)
        assert found.w.dtype == jnp.bfloat16
        # The precision of bfloat16 is 2^-8.
        assert abs(float(found.w) - average) < 2**-8 < 0.5 < average

    def test_the_average_is_kept_in_32_bits(self):
        model = Mean(jnp.zeros(2, jnp.float16))
        trainer = fp.Trainer(model, optax.sgd(0.1), ema=0.9)
        state = trainer.init(key=KEY)
        assert state.average.w.dtype == jnp.float32
        assert trainer.model(state).w.dtype == jnp.float16


class Torch:
    """Like an optimiser of another library."""

    def step(self): ...
    def zero_grad(self): ...


@pytest.mark.parametrize(
    ("optimiser", "message"),
    [
        (optax.adam, r"`optimiser` is the function adam where .*: call it, as in `adam\(1e-3\)`"),
        (optax.contrib.prodigy, "call it, as in `prodigy"),
        (0.1, r"`optimiser` is 0.1 where .*: give an optimiser with this learning rate, such as `optax.adam\(0.1\)`"),
        ("adam", "`optimiser` is 'adam' where an Optax optimiser is needed: give one of Optax"),
        (None, "`optimiser` is None where an Optax optimiser is needed"),
        (Torch(), "`optimiser` is a Torch where an Optax optimiser is needed"),
        (Torch, "`optimiser` is the class Torch where an Optax optimiser is needed"),
    ],
)
def test_objects_that_are_not_optimisers_are_named(optimiser, message):
    with pytest.raises(TypeError, match=message) as caught:
        fit(optimiser)
    assert len(str(caught.value)) < 250
