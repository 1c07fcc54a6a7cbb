"""What a loss may return to `fit` (metrics, arrays that are not trained), weights of examples, and refusals."""

import logging
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
import flowprop._train.fit as fit_module
from flowprop._train.loop import has_convolutions


KEY = jax.random.key(5)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


def fit(model, data=X, optimiser=None, **kwargs):
    settings = {"steps": 6, "batch_size": 5, "key": KEY, "progress": False} | kwargs
    return fp.fit(model, data, optax.sgd(0.1) if optimiser is None else optimiser, **settings)


class Given(eqx.Module):
    """A model with one weight, whose loss is a given function of the weight, the batch and keywords."""

    function: object
    w: jax.Array = eqx.field(default_factory=lambda: jnp.ones(()))

    def loss(self, *batch, key, **more):
        return self.function(self.w, *batch, **more)


class TestMetrics:
    @pytest.mark.parametrize("steps_per_call", [1, 7, 50])
    def test_are_kept_for_each_step(self, steps_per_call):
        """An epoch has four batches, and uses each row once."""
        model = Given(lambda w, x: (w**2, {"sum": jnp.sum(x), "rows": x.shape[0], "w": w, "odd": w > 0.9}))
        _, history = fit(model, steps=8, steps_per_call=steps_per_call)
        assert set(history) == {"step", "loss", "sum", "rows", "w", "odd"}
        # The rounding of a sum of twenty numbers.
        np.testing.assert_allclose(history["sum"].reshape(2, 4).sum(axis=1), [X.sum(), X.sum()], atol=1e-5)
        np.testing.assert_array_equal(history["rows"], np.full(8, 5))
        np.testing.assert_allclose(history["w"], 0.8 ** np.arange(8), rtol=1e-5)
        np.testing.assert_array_equal(history["odd"], history["w"] > 0.9)
        assert history["rows"].dtype.kind == "i"
        assert history["odd"].dtype == bool

    def test_beside_evaluations(self):
        model = Given(lambda w, x: (w**2, {"w": w}))
        _, history = fit(model, evaluate=lambda model: {"after": float(model.w)}, evaluate_every=1)
        np.testing.assert_array_equal(history["w"], history["after"][:-1])


class Normalised(eqx.Module):
    """A model that keeps the running mean of its batches, which is not trained."""

    w: jax.Array
    mean: fp.Frozen
    count: jax.Array

    def loss(self, x, *, key):
        mean = 0.5 * self.mean.value + 0.5 * x.mean(axis=0)
        new = eqx.tree_at(lambda m: (m.mean.array, m.count, m.w), self, (mean, self.count + 1, self.w + 7))
        return jnp.mean(jnp.square(x - self.mean.value[None] - self.w[None])), {"count": self.count}, new


class TestAModelWithAState:
    model = Normalised(jnp.zeros(3), fp.Frozen(jnp.zeros(3)), jnp.asarray(0))

    def test_its_arrays_are_updated_from_step_to_step(self):
        """Every batch has all examples, so the distance from the mean halves in each step."""
        found, history = fit(self.model, steps=10, batch_size=20)
        np.testing.assert_allclose(found.mean.array, X.mean(axis=0) * (1 - 0.5**10), rtol=1e-5, atol=1e-7)
        assert int(found.count) == 10
        np.testing.assert_array_equal(history["count"], np.arange(10))

    def test_only_the_optimiser_changes_trained_arrays(self):
        weight, mean = np.zeros(3), np.zeros(3)
        for _ in range(10):
            weight += 0.1 * 2 * (X.mean(axis=0) - mean - weight) / 3
            mean = 0.5 * mean + 0.5 * X.mean(axis=0)
        np.testing.assert_allclose(fit(self.model, steps=10, batch_size=20)[0].w, weight, rtol=1e-5, atol=1e-7)

    def test_steps_per_call_do_not_matter(self):
        one, history = fit(self.model, steps=60, steps_per_call=1)
        many, others = fit(self.model, steps=60, steps_per_call=50)
        # The same arithmetic, compiled separately: only rounding differs.
        assert eqx.tree_equal(one, many, rtol=1e-5)
        np.testing.assert_allclose(history["loss"], others["loss"], rtol=1e-5)

    def test_evaluations_get_it(self):
        _, history = fit(self.model, steps=4, evaluate=lambda m: {"n": int(m.count)}, evaluate_every=2, ema=0.9)
        np.testing.assert_array_equal(history["n"], [0, 2, 4])

    def test_the_callers_model_is_not_changed(self):
        fit(self.model)
        np.testing.assert_array_equal(self.model.mean.array, np.zeros(3))
        assert int(self.model.count) == 0

    def test_the_state_of_equinox(self):
        class Counting(eqx.Module):
            w: jax.Array
            index: eqx.nn.StateIndex
            state: eqx.nn.State

            def loss(self, x, *, key):
                count = self.state.get(self.index)
                state = self.state.set(self.index, count + x.shape[0])
                new = Counting(self.w, self.index, state)
                return self.w**2, {"seen": count}, new

        layer, state = eqx.nn.make_with_state(lambda: eqx.nn.StateIndex(jnp.asarray(0)))()
        _, history = fit(Counting(jnp.ones(()), layer, state))
        np.testing.assert_array_equal(history["seen"], 5 * np.arange(6))


class TestWeights:
    @staticmethod
    def mean():
        return Given(lambda w, x, weights: jnp.mean(weights * jnp.square(w - x[:, 0])))

    @pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
    def test_their_scale_does_not_matter(self, scale):
        """The best constant for weighted squares is the weighted mean."""
        weights = scale * np.arange(20)
        found, _ = fit(self.mean(), steps=100, batch_size=20, weights=weights)
        np.testing.assert_allclose(found.w, np.average(X[:, 0], weights=weights), rtol=1e-5)

    def test_belong_to_the_examples_of_the_batch(self):
        rows, weights = np.arange(20), 3.0 * np.arange(20)
        wanted = weights / weights.mean()

        def loss(w, rows, weights):
            return 0 * w, {"error": jnp.max(jnp.abs(weights - jnp.asarray(wanted, jnp.float32)[rows]))}

        _, history = fit(Given(loss), rows, weights=weights, steps=8)
        assert np.max(history["error"]) < 1e-6

    def test_are_not_passed_unless_given(self):
        fit(Given(lambda w, x, weights=None: w if weights is None else 1 / 0))

    def test_of_a_flow(self):
        """Half of the points are at 2. The others are at -2 and have weight 0."""
        points = np.where(np.arange(400)[:, None] % 2, 2.0, -2.0).astype(np.float32)
        points += 0.1 * np.random.default_rng(0).standard_normal((400, 1)).astype(np.float32)
        flow = fp.fm_flow(fp.nn.MLP(shape=(1,), width=16, depth=1, key=KEY), shape=(1,))
        settings = {"optimiser": optax.adam(0.01), "steps": 300, "batch_size": 100}
        weighted, history = fit(flow, points, weights=np.arange(400) % 2, **settings)
        samples = np.asarray(fp.sample(weighted, 200, key=KEY))
        assert np.mean(samples > 0) > 0.97
        _, ones = fit(flow, points, weights=np.full(400, 3.0), **settings)
        _, plain = fit(flow, points, **settings)
        np.testing.assert_allclose(ones["loss"][:5], plain["loss"][:5], rtol=1e-5)
        assert np.all(history["loss"] != plain["loss"])

    def test_a_loss_without_them(self):
        class Plain(eqx.Module):
            w: jax.Array

            def loss(self, x, *, key):
                return self.w

        with pytest.raises(TypeError, match=r"`model.loss\(x, key\)` has no argument `weights`: add it"):
            fit(Plain(jnp.ones(())), weights=np.ones(20))

    @pytest.mark.parametrize(
        ("weights", "kind", "message"),
        [
            (np.ones(19), ValueError, r"`weights` has shape \(19,\) where \(20,\) is needed"),
            (np.ones((20, 1)), ValueError, r"`weights` has shape \(20, 1\) where"),
            (1.0, TypeError, "`weights` is 1.0: give an array"),
            ([1.0] * 20, TypeError, "`weights` is a list of 20: give an array"),
            (np.zeros(20), ValueError, "`weights` has the sum 0: give weights with a positive sum"),
            (-np.ones(20), ValueError, "`weights` has the sum -20: give weights with a positive sum"),
            (np.where(np.arange(20) == 7, np.nan, 1.0), ValueError, "`weights` has nan in row 7"),
            (np.where(np.arange(20) == 3, np.inf, 1.0), ValueError, "`weights` has inf in row 3"),
            (np.full(20, "heavy"), TypeError, "`weights` has the type <U5: give numbers"),
        ],
    )
    def test_that_do_not_fit_are_named(self, weights, kind, message):
        with pytest.raises(kind, match=message):
            fit(self.mean(), weights=weights)


class NoLoss(eqx.Module):
    w: jax.Array


class NoKey(eqx.Module):
    w: jax.Array

    def loss(self, x):
        return self.w


class Pair(eqx.Module):
    w: jax.Array

    def loss(self, x, y, *, key):
        return self.w


class Replaces(eqx.Module):
    """Returns an array in place of a number, or of another shape."""

    w: jax.Array
    mean: object

    def loss(self, x, *, key):
        return self.w, {}, eqx.tree_at(lambda m: jax.tree.leaves(m)[1], self, x.mean(axis=0))


ONE = jnp.ones(())
# What is wrong -> the model, other arguments of `fit`, and the error message.
REFUSED = {
    "a vector": (
        Given(lambda w, x: w * x[:, 0]),
        {},
        r"`model.loss` returns a traced float32 array of shape \(5,\) where a real",
    ),
    "an integer": (Given(lambda w, x: jnp.sum(w > 0)), {}, "`model.loss` returns a traced int32"),
    "a complex number": (Given(lambda w, x: w * 1j), {}, "`model.loss` returns a traced complex64"),
    "nothing": (Given(lambda w, x: None), {}, "`model.loss` returns None where a real scalar is needed"),
    "a dict": (Given(lambda w, x: {"loss": w}), {}, "`model.loss` returns a dict of 1"),
    "four values": (Given(lambda w, x: (w, {}, None, 1)), {}, "`model.loss` returns a tuple of 4"),
    "an empty tuple": (Given(lambda w, x: ()), {}, "`model.loss` returns a tuple of 0"),
    "metrics as a scalar": (Given(lambda w, x: (w, w)), {}, "`model.loss` returns .* for its metrics: return a dict"),
    "a metric that is a vector": (Given(lambda w, x: (w, {"a": x})), {}, "for the metric 'a': return a real scalar"),
    "a metric's name": (
        Given(lambda w, x: (w, {"step": w})),
        {},
        r"`model.loss` returns \['step'\], names that the history",
    ),
    "another model": (Given(lambda w, x: (w, {}, w)), {}, "with another structure than the model"),
    "an array for a number": (Replaces(ONE, 0.0), {}, "at `.mean` where the model has 0.0: make it a JAX array"),
    "a state of another shape": (
        Replaces(ONE, fp.Frozen(jnp.zeros((1, 3)))),
        {},
        r"has a traced float32 array of shape \(3,\) at `.mean.array` where the model has .*: keep shape and type",
    ),
    "no loss": (NoLoss(ONE), {}, "`model` is a NoLoss where a model with .*`loss"),
    "a class": (NoKey, {}, "`model` is the class NoKey where .*: make an instance"),
    "no key": (NoKey(ONE), {}, r"`model.loss\(x\)` has no argument `key`"),
    "surplus data": (Pair(ONE), {"data": (X, X, X)}, r"`data` has 3 entries, which `model.loss\(x, y, key\)`"),
    "missing data": (Pair(ONE), {"data": X}, r"`data` has 1 entry, which `model.loss\(x, y, key\)` does not take"),
    "an evaluation without result": (Given(lambda w, x: w), {"evaluate": lambda m: None}, "`evaluate` returns None"),
    "an evaluation that is a number": (Given(lambda w, x: w), {"evaluate": lambda m: 0.3}, "`evaluate` returns 0.3"),
    "an evaluation with an array": (
        Given(lambda w, x: w),
        {"evaluate": lambda m: {"a": np.ones(3)}},
        r"`evaluate` returns a float64 array of shape \(3,\) for 'a': return a number",
    ),
    "an evaluation with a string": (Given(lambda w, x: w), {"evaluate": lambda m: {"a": "b"}}, "'b' for 'a': return a"),
    "an evaluation with other names": (Given(lambda w, x: w), {"evaluate": lambda m: {1: 2}}, "use strings as names"),
    "an evaluation named loss": (
        Given(lambda w, x: w),
        {"evaluate": lambda m: {"loss": 1.0}},
        r"`evaluate` returns \['loss'\], names that the history already has",
    ),
    "an evaluation named as a metric": (
        Given(lambda w, x: (w, {"a": w})),
        {"evaluate": lambda m: {"a": 1.0}},
        r"`evaluate` returns \['a'\], names that the history already has",
    ),
    "an augmentation that returns floats": (
        Given(lambda w, x: w),
        {"data": X.astype(np.uint8), "augment": lambda x, *, key: x * jax.random.uniform(key)},
        r"`augment` returns float32 where an example has uint8: .*`.astype\(image.dtype\)`",
    ),
    "an augmentation of another shape": (
        Given(lambda w, x: w),
        {"augment": lambda x, *, key: x[:2]},
        r"`augment` returns the shape \(2,\) where an example has \(3,\)",
    ),
    "an augmentation without result": (
        Given(lambda w, x: w),
        {"augment": lambda x, *, key: None},
        "returns None where",
    ),
    "an augmentation without key": (
        Given(lambda w, x: w),
        {"augment": lambda x: x},
        r"`augment` cannot be called as `augment\(example, key=key\)`",
    ),
}


@pytest.mark.parametrize(("model", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_the_first_step(model, settings, message, monkeypatch):
    monkeypatch.setattr(fit_module.Loop, "__call__", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        fit(model, **settings)
    assert len(str(caught.value)) < 300


def test_an_evaluation_that_raises_does_so_before_the_first_step(monkeypatch):
    monkeypatch.setattr(fit_module.Loop, "__call__", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(ZeroDivisionError) as caught:
        fit(Given(lambda w, x: w), evaluate=lambda model: {"a": 1 / 0})
    assert caught.value.__notes__ == ["`evaluate` raised this in `flowprop.fit`, at step 0"]


def test_an_evaluation_with_other_names_later():
    names = iter("aab")
    with pytest.raises(ValueError, match=r"`evaluate` returns other names at step 2 than before, \['a', 'b'\]"):
        fit(Given(lambda w, x: w), evaluate=lambda model: {next(names): 1.0}, evaluate_every=1)


class Seen:
    def __init__(self):
        self.found = []


class TestCheckData:
    class Checking(eqx.Module):
        w: jax.Array
        seen: object = eqx.field(static=True)

        def check_data(self, points, condition):
            self.seen.found.append((points, condition))
            if points.max() > 100:
                raise ValueError("too large")
            if points.min() < -100:
                warnings.warn("far from unit scale", stacklevel=2)

        def loss(self, points, condition, *, key):
            return self.w * jnp.mean(points + condition["a"])

    def test_gets_the_whole_data_set_once(self):
        seen, a = Seen(), np.arange(20.0)[:, None]
        fit(self.Checking(ONE, seen), (X, {"a": a}))
        [(points, condition)] = seen.found
        assert points is X
        assert condition["a"] is a

    def test_can_refuse_the_data(self, monkeypatch):
        monkeypatch.setattr(fit_module.Loop, "__call__", lambda *_: pytest.fail("a step was taken"))
        with pytest.raises(ValueError, match="too large"):
            fit(self.Checking(ONE, Seen()), (1000 + X, {"a": X}))

    def test_can_warn_about_the_data(self):
        with pytest.warns(UserWarning, match="far from unit scale"):
            fit(self.Checking(ONE, Seen()), (X - 1000, {"a": X}))


class TestTheKey:
    class Noise(eqx.Module):
        """A model whose loss is noise, and whose weight changes a little."""

        w: jax.Array

        def loss(self, x, *, key):
            return jax.random.normal(key) + 1e-3 * self.w, {"first": x[0, 0]}

    def test_a_second_call_gets_new_draws(self):
        once, first = fit(self.Noise(ONE), steps=400)
        _, second = fit(once, steps=400)
        # Independent draws have a correlation of 0 with standard deviation 1/20; equal draws have 1.
        assert abs(np.corrcoef(first["loss"], second["loss"])[0, 1]) < 4 / 20
        # A given row is in one of four batches.
        assert np.mean(first["first"] == second["first"]) < 0.2

    def test_the_same_model_and_key_draw_the_same(self):
        _, first = fit(self.Noise(ONE))
        _, second = fit(self.Noise(jnp.ones(())))
        np.testing.assert_array_equal(first["loss"], second["loss"])

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.complex64])
    def test_parameters_of_any_type_change_the_draws(self, dtype):
        models = [Given(lambda w, x: jnp.sum(w.real.astype(float)), jnp.full(2, value, dtype)) for value in (1.0, 2.0)]
        keys = [fp.Trainer(m, optax.sgd(0.1)).init(key=KEY).key for m in models]
        assert not jnp.array_equal(jax.random.key_data(keys[0]), jax.random.key_data(keys[1]))

    def test_the_last_digit_of_double_precision_changes_the_draws(self, x64):
        models = [Given(lambda w, x: w, jnp.asarray(value, jnp.float64)) for value in (1.0, 1.0 + 1e-15)]
        keys = [fp.Trainer(m, optax.sgd(0.1)).init(key=KEY).key for m in models]
        assert not jnp.array_equal(jax.random.key_data(keys[0]), jax.random.key_data(keys[1]))


class TestTransformations:
    @pytest.mark.parametrize(
        "transform",
        [
            lambda f: eqx.filter_vmap(f, in_axes=(0, None, None))(Pair(jnp.ones(2)), (X, X), KEY),
            lambda f: eqx.filter_jit(f)(Pair(ONE), (X, X), KEY),
            lambda f: jax.jit(lambda x: f(Pair(ONE), (X, x), KEY))(X),
            lambda f: jax.vmap(lambda key: f(Pair(ONE), (X, X), key))(jax.random.split(KEY)),
        ],
    )
    def test_are_refused(self, transform):
        with pytest.raises(TypeError, match=r"`fit` cannot be transformed by .*: to train an ensemble"):
            transform(lambda model, data, key: fit(model, data, key=key)[0])

    def test_an_ensemble_in_one_model(self):
        """This is the remedy in the message: the models trained together are the same as each trained alone."""

        class Mean(eqx.Module):
            w: jax.Array

            def loss(self, x, *, key):
                return jnp.mean(jnp.square(self.w - x))

        class Ensemble(eqx.Module):
            members: Mean

            def loss(self, x, *, key):
                return jnp.sum(eqx.filter_vmap(lambda member: member.loss(x, key=key))(self.members))

        together, _ = fit(Ensemble(Mean(jnp.arange(3.0))), batch_size=20)
        alone = [fit(Mean(jnp.asarray(float(i))), batch_size=20)[0].w for i in range(3)]
        np.testing.assert_allclose(together.members.w, alone, rtol=1e-5, atol=1e-6)


TWO = np.ones(2, np.float32)


class Scaled(eqx.Module):
    w: jax.Array
    scale: object

    def loss(self, x, *, key):
        return self.w * jnp.mean(x) * jnp.sum(self.scale)


class TestCompilation:
    @staticmethod
    def compiled(caplog, *args, **kwargs):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            result = fit(*args, **kwargs)
        return result, [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]

    def test_a_second_fit_of_the_same_objects_compiles_nothing(self, caplog):
        optimiser = optax.adam(0.1)
        _, first = self.compiled(caplog, Scaled(ONE, 3.0), optimiser=optimiser, ema=0.9)
        (found, _), second = self.compiled(
            caplog, Scaled(2 * ONE, 3.0), 1 + X, optimiser, ema=0.8, steps=9, key=jax.random.key(1)
        )
        assert any("_run" in message for message in first)
        assert second == []
        assert float(found.w) < 2

    def test_optimisers_made_alike_share_a_program(self, caplog):
        def make():
            rate = optax.cosine_decay_schedule(0.1, 50)
            return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))

        self.compiled(caplog, Scaled(ONE, 5.0), optimiser=make())
        assert self.compiled(caplog, Scaled(ONE, 5.0), optimiser=make())[1] == []

    def test_a_schedule_that_reads_a_variable_is_not_shared(self):
        """The code is the same, and the variable has changed."""
        factor = 1.0

        def step(rate):
            return fit(Scaled(ONE, 1.0), X, optax.sgd(lambda count: rate * factor), steps=1)[0].w

        assert step(0.1) < 1
        factor = 0.0
        assert step(0.1) == 1

    @pytest.mark.parametrize(("one", "other"), [(1.0, 2.0), (TWO, 2 * TWO), (TWO[:1], TWO), (jnp.ones(2), 2 * ONE)])
    def test_another_constant_is_another_program(self, one, other):
        losses = [fit(Scaled(ONE, scale), batch_size=20, steps=1)[1]["loss"][0] for scale in (one, other)]
        np.testing.assert_allclose(losses, [X.mean() * np.sum(one), X.mean() * np.sum(other)], rtol=1e-4)

    def test_a_constant_of_numpy_that_the_caller_changes(self):
        scale = TWO.copy()
        losses = []
        for _ in range(2):
            losses.append(fit(Scaled(ONE, scale), batch_size=20, steps=1)[1]["loss"][0])
            scale += 1
        np.testing.assert_allclose(losses[1], 2 * losses[0], rtol=1e-5)

    def test_a_field_that_cannot_be_hashed(self):
        class Listed(Scaled):
            sizes: list = eqx.field(static=True)

        fit(Listed(ONE, 3.0, [1, 2]))


def custom(function):
    """`function` with a custom derivative."""
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return wrapped


class TestConvolutions:
    image = jnp.zeros((1, 4, 4, 1))

    @staticmethod
    def convolve(x):
        return jax.lax.conv_general_dilated(x, jnp.zeros((1, 1, 1, 1)), (1, 1), "SAME", dimension_numbers=NHWC)

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda f: f,
            lambda f: jax.jit(f),
            lambda f: jax.checkpoint(f),
            lambda f: lambda x: jax.lax.fori_loop(0, 2, lambda i, x: f(x), x),
            lambda f: lambda x: jax.lax.cond(x[0, 0, 0, 0] > 0, f, lambda x: x, x),
            lambda f: lambda x: jax.lax.while_loop(lambda x: x[0, 0, 0, 0] > 0, f, x),
            custom,
            lambda f: lambda x: jax.lax.scan(lambda x, _: (jax.jit(f)(x), None), x, None, 2)[0],
        ],
    )
    def test_are_found_wherever_they_are(self, wrapped):
        assert has_convolutions(jax.make_jaxpr(wrapped(self.convolve))(self.image).jaxpr)
        assert not has_convolutions(jax.make_jaxpr(wrapped(jnp.sin))(self.image).jaxpr)

    def test_a_name_is_no_convolution(self):
        """The name of a function appears in a printed program too."""

        @jax.jit
        def conv_general_dilated(x):
            return 2 * x

        assert not has_convolutions(jax.make_jaxpr(conv_general_dilated)(self.image).jaxpr)


NHWC = ("NHWC", "HWIO", "NHWC")
