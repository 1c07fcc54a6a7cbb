"""NoProp-DT: its blocks are independent, equal a loop over single blocks, and classify."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_forms import blobs

import flowprop as fp
from flowprop._flow.training import sample_times
from flowprop._labels.label_loss import label_terms


KEY = jax.random.key(11)
T = 4
LOGITS = np.array([[0.3, -1.0, 2.0], [0.0, 0.5, -0.5], [1.0, 1.0, -1.0], [2.0, 0.1, 0.2]], np.float32)


class Constant(eqx.Module):
    output: jax.Array

    def __call__(self, t, z, x):
        return self.output


class Perceptron(eqx.Module):
    """Logits of a hidden layer of time, point and features. It is small, since compilation takes most of the time."""

    first: jax.Array
    second: jax.Array

    def __init__(self, key, size=4, width=16):
        key_first, key_second = jax.random.split(key)
        self.first = jax.random.normal(key_first, (3 + size + 1, width)) / 2
        self.second = jax.random.normal(key_second, (width, 3)) / 4

    def __call__(self, t, z, x):
        return jnp.tanh(jnp.concatenate([z, x, t[None]]) @ self.first) @ self.second


class Encoder(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.tanh(x @ self.weight)


class Wide(eqx.Module):
    """An encoder with many activations and few features, like one of images."""

    weight: jax.Array

    def __call__(self, x):
        return jnp.mean(jnp.tanh(x @ self.weight).reshape(4, -1), axis=1)


@functools.cache
def networks():
    return [Perceptron(key) for key in jax.random.split(KEY, T)]


@functools.cache
def encoders():
    return [Encoder(jax.random.normal(key, (2, 4))) for key in jax.random.split(jax.random.key(5), T)]


@functools.cache
def blocks(**kwargs):
    """Blocks with one encoder each, and all parts that can be trained."""
    settings = {"encoder": encoders(), "embedding": learned(), "objective": fp.ELBOObjective(eta=0.1)}
    return fp.NoPropDT(networks(), **settings | kwargs)


@functools.cache
def learned():
    return fp.learned_embedding(3, 3, norm=1.5, key=KEY)


@functools.cache
def shared(**kwargs):
    return fp.NoPropDT(networks(), encoder=encoders()[0], embedding=fp.one_hot_embedding(3), **kwargs)


def constant(outputs=LOGITS, **kwargs):
    return fp.NoPropDT([Constant(jnp.asarray(row)) for row in outputs], embedding=fp.one_hot_embedding(3), **kwargs)


losses_of = eqx.filter_jit(lambda model, inputs, labels: model.block_losses(inputs, labels, key=KEY))
terms_of = eqx.filter_jit(lambda model, inputs, labels: model.terms(inputs, labels, key=KEY))


@eqx.filter_jit
def jacobian_of(model, inputs, labels):
    """The loss of each block, and its gradient with respect to all parameters."""
    parameters, rest = eqx.partition(model, fp.trainable(model))

    def losses(parameters):
        values = eqx.combine(parameters, rest).block_losses(inputs, labels, key=KEY)
        return values, values

    jacobian, values = jax.jacrev(losses, has_aux=True)(parameters)
    return values, jacobian


@functools.cache
def jacobian(keep_activations=False):
    return jacobian_of(blocks(keep_activations=keep_activations), *blobs(0, 30))


@pytest.mark.parametrize("keep_activations", [True, False])
class TestIndependence:
    """The main property: no gradient passes from block to block, whether computed at once or one by one."""

    def test_of_networks(self, keep_activations):
        for leaf in jax.tree.leaves(jacobian(keep_activations)[1].flow.network):
            assert leaf.shape[:2] == (T, T)
            for i, j in np.ndindex(T, T):
                if i == j:
                    assert float(jnp.max(jnp.abs(leaf[i, j]))) > 1e-4
                else:
                    np.testing.assert_array_equal(leaf[i, j], np.zeros(leaf.shape[2:]))

    def test_of_encoders(self, keep_activations):
        for j, encoder in enumerate(jacobian(keep_activations)[1].encoders):
            for i in range(T):
                if i == j:
                    assert float(jnp.max(jnp.abs(encoder.weight[i]))) > 1e-4
                else:
                    np.testing.assert_array_equal(encoder.weight[i], np.zeros((2, 4)))

    def test_shared_parts_get_gradients_of_all_blocks(self, keep_activations):
        assert np.all(np.max(np.abs(jacobian(keep_activations)[1].embedding.rows), axis=(1, 2)) > 1e-4)


class TestActivations:
    """Blocks with one encoder each are differentiated one by one; automatic differentiation keeps all activations."""

    def test_dropping_them_changes_nothing(self):
        (kept, wanted), (dropped, gradient) = jacobian(True), jacobian(False)
        np.testing.assert_allclose(dropped, kept, rtol=1e-5)
        for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

    def test_dropping_them_saves_memory(self):
        """Five encoders with 1000 activations for one input: keeping all takes several times the memory of one."""

        keys = jax.random.split(KEY, 5)
        peaks = {}
        for keep in (True, False):
            model = fp.NoPropDT(
                [Perceptron(key) for key in keys],
                encoder=[Wide(jax.random.normal(key, (2, 1000))) for key in keys],
                embedding=fp.one_hot_embedding(3),
                keep_activations=keep,
            )
            parameters, rest = eqx.partition(model, fp.trainable(model))
            loss = jax.jit(jax.grad(lambda p, x, y, rest=rest: eqx.combine(p, rest).loss(x, y, key=KEY)))
            compiled = loss.lower(parameters, *map(jnp.asarray, blobs(0, 200))).compile()
            peaks[keep] = compiled.memory_analysis().temp_size_in_bytes
        assert peaks[False] < 0.5 * peaks[True]

    def test_forward_mode_needs_them(self):
        inputs, labels = (jnp.asarray(array) for array in blobs(0, 30))

        def tangent(model):
            parameters, rest = eqx.partition(model, fp.trainable(model))
            loss = eqx.filter_jit(lambda parameters: eqx.combine(parameters, rest).loss(inputs, labels, key=KEY))
            return jax.jvp(loss, (parameters,), (parameters,))[1], parameters

        found, direction = tangent(blocks(keep_activations=True))
        pairs = zip(jax.tree.leaves(jacobian()[1]), jax.tree.leaves(direction), strict=True)
        np.testing.assert_allclose(found, sum(np.sum(np.mean(j, axis=0) * d) for j, d in pairs), rtol=1e-4)
        with pytest.raises((TypeError, RuntimeError), match="forward-mode"):
            tangent(blocks())


class TestLosses:
    def test_cross_entropy_of_constant_logits(self):
        inputs, labels = blobs(0, 50)
        wanted = np.log(np.sum(np.exp(LOGITS), axis=1)) - np.mean(LOGITS[:, labels], axis=1)
        np.testing.assert_allclose(losses_of(constant(), inputs, labels), wanted, rtol=1e-5)

    @pytest.mark.parametrize("eta", [1.0, 0.1])
    def test_the_bound_of_constant_targets(self, eta):
        """`T eta/2 (SNR_i - SNR_{i-1}) |u_i - u_y|^2`: its mean over blocks is eta times the sum in the bound."""
        inputs, labels = blobs(0, 50)
        model = constant(prediction=fp.TargetPrediction(), objective=fp.ELBOObjective(eta=eta))
        abar = 0.01 + 0.98 * np.sin(np.pi / 2 * np.linspace(0, 1, T + 1))
        rise = np.diff(abar / (1 - abar))
        squares = np.mean(np.sum((LOGITS[:, None] - np.eye(3)[labels]) ** 2, axis=2), axis=1)
        terms = terms_of(model, inputs, labels)
        # Here 1 - abar = 0.01, which is 170,000 units of single precision's rounding.
        assert float(terms["regression"]) == pytest.approx(np.sum(eta / 2 * rise * squares), rel=1e-4)
        # KL(N(sqrt(abar_0) u_y, 1 - abar_0) || N(0, 1)) occurs once.
        prior = 0.5 * (0.01 * 1 - 3 * 0.01 - 3 * np.log(0.99))
        assert float(terms["prior"]) == pytest.approx(prior, abs=1e-6)

    def test_are_those_of_a_loop(self):
        """The loop is over networks and encoders that are not stacked, with the noise that each block draws."""
        model, (inputs, labels) = blocks(), blobs(0, 30)
        for index, key in enumerate(jax.random.split(KEY, T)):
            one = single_terms(model, networks()[index], encoders()[index], index, inputs, labels, key)
            np.testing.assert_allclose(jacobian()[0][index], sum(one.values()), rtol=1e-4)

    def test_their_mean_is_the_loss(self):
        model, batch = blocks(), blobs(0, 30)
        loss = eqx.filter_jit(lambda model: (model.loss(*batch, key=KEY), model.terms(*batch, key=KEY)))
        value, terms = loss(model)
        assert set(terms) == {"readout", "prior", "regression"}
        np.testing.assert_allclose(value, jnp.mean(jacobian()[0]), rtol=1e-5)
        np.testing.assert_allclose(value, sum(terms.values()), rtol=1e-5)

    def test_follow_the_encoder_of_each_block(self):
        """A shared encoder gives the same result as equal encoders, one for each block."""
        model = shared()
        alike = fp.NoPropDT(networks(), encoder=[encoders()[0]] * T, embedding=fp.one_hot_embedding(3))
        found = losses_of(model, *blobs(0, 30))
        np.testing.assert_allclose(losses_of(alike, *blobs(0, 30)), found, rtol=1e-5)


@eqx.filter_jit
def single_terms(model, network, encoder, index, inputs, labels, key):
    """The terms of a block from its own parts and weight: nothing is stacked."""
    weighting = fp.StepELBOWeighting(T)
    path = fp.VPPath(fp.CosineNoiseSchedule())
    flow = fp.Flow(network, path, fp.CategoricalPrediction(), shape=(3,), weighting=weighting)
    features, times = jax.vmap(encoder)(inputs), jnp.full(labels.shape, index / T)
    return label_terms(model.objective, flow, model.embedding, model.readout, features, labels, times, key=key)


class TestBlocks:
    def test_have_the_given_networks(self):
        t, z, x = jnp.asarray(0.3), jnp.arange(3.0), jnp.ones(4)
        for index in range(T):
            block = blocks().block(index)
            assert eqx.tree_equal(block.flow.network, networks()[index])
            assert eqx.tree_equal(block.encoder, encoders()[index])
            assert shared().block(index).encoder is shared().encoders[0]
        np.testing.assert_array_equal(block.flow.network(t, z, x), networks()[-1](t, z, x))

    def test_have_the_blocks_loss(self):
        """The logits are constant, so that noise does not change the loss."""
        batch, model = blobs(0, 50), constant()
        found = losses_of(model, *batch)
        for index in (0, T - 1):
            loss = eqx.filter_jit(lambda block: block.loss(*batch, key=KEY))(model.block(index))
            np.testing.assert_allclose(loss, found[index], rtol=1e-5)

    @pytest.mark.parametrize("prediction", [fp.CategoricalPrediction(), fp.VelocityPrediction()])
    def test_are_trained_at_their_own_time(self, prediction):
        """Also if the flow's span ends before 1, as with a velocity prediction."""
        model = constant(prediction=prediction)
        for index in range(T):
            times = sample_times(model.block(index).flow, 2, key=KEY)
            np.testing.assert_allclose(times, np.full(2, index / T), rtol=1e-6)

    @pytest.mark.parametrize("make", [blocks, shared, constant])
    def test_putting_one_back_changes_nothing(self, make):
        model = make()
        for index in range(T):
            assert eqx.tree_equal(model.with_block(index, model.block(index)), model)

    def test_training_one_changes_only_it_and_the_shared_parts(self):
        model = fp.NoPropDT(networks(), encoder=encoders(), embedding=learned())
        settings = {"steps": 1, "steps_per_call": 1, "batch_size": 30, "key": KEY, "progress": False}
        block, _ = fp.fit(model.block(1), blobs(0), optax.adam(1e-2), **settings)
        after = model.with_block(1, block)
        for one, other in zip(*(jax.tree.leaves(m.flow.network) for m in (model, after)), strict=True):
            assert list(np.any(one != other, axis=(1, 2))) == [False, True, False, False]
        encoded = [
            np.any(one.weight != other.weight) for one, other in zip(model.encoders, after.encoders, strict=True)
        ]
        assert encoded == [False, True, False, False]
        assert eqx.tree_equal(after.block(1).flow.network, block.flow.network)
        assert eqx.tree_equal(after.embedding, block.embedding)
        assert not eqx.tree_equal(after.embedding, model.embedding)

    @pytest.mark.parametrize("index", [-1, T])
    def test_an_index_out_of_range_is_refused(self, index):
        with pytest.raises(IndexError, match=f"`index` is {index}: there are blocks 0 to 3"):
            constant().block(index)
        with pytest.raises(IndexError, match=f"`index` is {index}"):
            constant().with_block(index, constant().block(0))


transport_of = eqx.filter_jit(lambda model, features, key: model.transport(features, key=key))


class TestTransport:
    @pytest.mark.parametrize("stochasticity", [1.0, 0.0])
    def test_is_the_papers_loop(self, stochasticity):
        """`z_i = a u_i + b z_{i-1} + sqrt(c) eps` with the coefficients in abar, computed in NumPy's float64."""
        model, example = blocks(stochasticity=stochasticity), jnp.array([0.5, -1.0])
        features = model.encode(example)
        key_start, key_steps = jax.random.split(KEY)
        z = np.asarray(jax.random.normal(key_start, (3,)), float)
        abar = 0.01 + 0.98 * np.sin(np.pi / 2 * np.linspace(0, 1, T + 1))
        for i, key in enumerate(jax.random.split(key_steps, T), 1):
            x = encoders()[i - 1](example)
            logits = networks()[i - 1](jnp.asarray((i - 1) / T), jnp.asarray(z, jnp.float32), x)
            u = np.asarray(jax.nn.softmax(logits) @ model.embedding.matrix, float)
            r = abar[i - 1] / abar[i]
            a = np.sqrt(abar[i]) * (1 - r) / (1 - abar[i - 1])
            b = np.sqrt(r) * (1 - abar[i]) / (1 - abar[i - 1])
            c = (1 - abar[i]) * (1 - r) / (1 - abar[i - 1])
            if stochasticity == 0:  # Song, Meng & Ermon 2021 (arXiv:2010.02502), eq. 12: the estimated noise is kept
                b, c = np.sqrt((1 - abar[i]) / (1 - abar[i - 1])), 0
                a = np.sqrt(abar[i]) - b * np.sqrt(abar[i - 1])
            z = a * u + b * z + np.sqrt(c) * np.asarray(jax.random.normal(key, (3,)), float)
        # The rounding of four steps in single precision.
        np.testing.assert_allclose(transport_of(model, features, KEY), z / np.sqrt(abar[-1]), atol=1e-5)

    def test_features_are_those_of_each_encoder(self):
        example = jnp.array([0.5, -1.0])
        wanted = np.stack([encoder(example) for encoder in encoders()])
        np.testing.assert_array_equal(blocks().encode(example), wanted)
        np.testing.assert_array_equal(shared().encode(example), np.broadcast_to(wanted[:1], (T, 4)))


@functools.cache
def trained():
    model = fp.NoPropDT(networks(), encoder=encoders(), embedding=fp.one_hot_embedding(3))
    return fp.fit(model, blobs(0), optax.adam(1e-2), steps=250, batch_size=80, key=KEY, progress=False)


@functools.cache
def probabilities():
    return np.asarray(trained()[0].predict_proba(blobs(1)[0], key=KEY))


class TestPredicting:
    def test_it_learns(self):
        loss = trained()[1]["loss"]
        assert np.mean(loss[-50:]) < 0.5 * np.mean(loss[:10])
        np.testing.assert_allclose(np.sum(probabilities(), axis=1), np.ones(240), rtol=1e-5)
        # 99.9 % is possible.
        assert np.mean(np.argmax(probabilities(), axis=1) == blobs(1)[1]) > 0.95

    def test_is_the_most_probable_class(self):
        found = trained()[0].predict(blobs(1)[0], key=KEY)
        np.testing.assert_array_equal(found, np.argmax(probabilities(), axis=1))

    def test_an_input_does_not_depend_on_the_other_inputs(self):
        inputs = blobs(1)[0].copy()
        inputs[:100] = 17.0
        np.testing.assert_array_equal(trained()[0].predict_proba(inputs, key=KEY)[100:], probabilities()[100:])

    def test_the_batch_size_does_not_matter(self):
        found = trained()[0].predict_proba(blobs(1)[0][:7], key=KEY, batch_size=3)
        # Matrix products of another size are summed in another order.
        np.testing.assert_allclose(found, probabilities()[:7], atol=1e-3)

    def test_draws_are_averaged_after_one_encoding(self):
        """Blocks that are exact, by Bayes' rule, end at each class with probability `p(y | x)`."""
        priors, calls = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32), []

        def encoder(example):
            jax.debug.callback(lambda _: calls.append(1), example)  # called once for each example under `vmap`
            return jnp.log(example)

        num_blocks = 40
        model = fp.NoPropDT(
            [fp.conformance.ClassPosterior(fp.VPPath(fp.SigmoidNoiseSchedule(10.0)))] * num_blocks,
            encoder=[encoder] * num_blocks,
            embedding=fp.one_hot_embedding(3),
            schedule=fp.SigmoidNoiseSchedule(10.0),
        )
        found = model.predict_proba(priors, key=KEY, num_draws=2000, batch_size=2)
        jax.block_until_ready(found)
        jax.effects_barrier()
        assert len(calls) == 2 * num_blocks
        # 4 standard errors, and 0.02 for the discretisation and the end points.
        assert np.all(np.abs(found - priors) < 4 * np.sqrt(priors * (1 - priors) / 2000) + 0.02)

    @pytest.mark.parametrize("name", ["num_draws", "batch_size"])
    def test_counts_that_are_not_positive_are_refused(self, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            constant().predict(np.zeros((2, 2), np.float32), key=KEY, **{name: 0})


class TestConstruction:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"networks": []}, "`networks` is empty"),
            (
                {"networks": [Constant(jnp.zeros(3)), Constant(jnp.zeros(4))]},
                r"`networks\[1\]` and `networks\[0\]` differ",
            ),
            ({"networks": [Constant(jnp.zeros(3)), Perceptron(KEY)]}, r"`networks\[1\]` and `networks\[0\]` differ"),
            ({"networks": [jnp.sin, jnp.cos]}, r"`networks\[1\]` and `networks\[0\]` differ"),
            ({"encoder": [jnp.sin]}, "`encoder` has 1 callables where `networks` has 2"),
            ({"stochasticity": -0.1}, "`stochasticity` is -0.1"),
            ({"stochasticity": 1.5}, "`stochasticity` is 1.5"),
            ({"schedule": fp.LearnableNoiseSchedule((2,), key=KEY)}, "`schedule` is LearnableNoiseSchedule"),
            ({"readout": fp.LinearReadout((3,), 3, key=KEY)}, "`readout` is LinearReadout"),
        ],
    )
    def test_arguments_that_do_not_fit_are_refused(self, change, message):
        settings = {"networks": [Constant(jnp.zeros(3))] * 2, "embedding": fp.one_hot_embedding(3)} | change
        with pytest.raises(ValueError, match=message):
            fp.NoPropDT(settings.pop("networks"), **settings)

    def test_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"`labels` lie in \[0, 3\]"):
            constant().loss(np.zeros((2, 2), np.float32), np.array([0, 3]), key=KEY)

    def test_defaults(self):
        model = constant()
        assert isinstance(model.flow.prediction, fp.CategoricalPrediction)
        assert isinstance(model.flow.path.schedule, fp.CosineNoiseSchedule)
        assert isinstance(model.objective, fp.CrossEntropyObjective)
        np.testing.assert_array_equal(model.times, [0, 0.25, 0.5, 0.75, 1])
