"""Classifiers learn, and their readout depends only on the end of the flow."""

import dataclasses
import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_forms import blobs

import flowprop as fp
from flowprop._transform import Standardise


def categorical(network, path, shape=(3,)):
    return fp.Flow(network, path, fp.CategoricalPrediction(), shape=shape)


# Name -> a function that makes the flow around a network; whether the embedding is learned (and five-dimensional).
PROTOCOLS = {
    "FM": (lambda net, shape: fp.fm_flow(net, shape=shape), False),
    "CT": (lambda net, shape: fp.ct_flow(net, shape=shape, schedule=fp.SigmoidNoiseSchedule(8.0)), False),
    "categorical, CondOT": (lambda net, shape: categorical(net, fp.CondOTPath(), shape), True),
    "categorical, VP": (lambda net, shape: categorical(net, fp.VPPath(fp.SigmoidNoiseSchedule(8.0)), shape), False),
}
KEY = jax.random.key(42)


@functools.cache
def untrained(protocol):
    make, learned = PROTOCOLS[protocol]
    key_encoder, key_net, key_embedding = jax.random.split(jax.random.key(1), 3)
    shape = (5,) if learned else (3,)
    network = fp.nn.MLP(shape=shape, condition_size=4, width=24, depth=2, out_shape=(3,), key=key_net)
    embedding = fp.learned_embedding(3, 5, norm=1.5, key=key_embedding) if learned else fp.one_hot_embedding(3)
    encoder = fp.nn.Linear(2, 4, key=key_encoder)
    return fp.Classifier(encoder=encoder, flow=make(network, shape), embedding=embedding)


@functools.cache
def trained(protocol):
    return fp.fit(untrained(protocol), blobs(0), optax.adam(5e-3), steps=250, batch_size=80, key=KEY, progress=False)


@functools.cache
def probabilities(protocol):
    return np.asarray(trained(protocol)[0].predict_proba(blobs(1)[0], key=KEY))


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestLearning:
    def test_the_loss_falls(self, protocol):
        loss = trained(protocol)[1]["loss"]
        # The rest of the loss is due to the noise that hides the labels; at least a quarter is learned.
        assert np.mean(loss[-50:]) < 0.75 * np.mean(loss[:10])

    def test_it_classifies(self, protocol):
        found = probabilities(protocol)
        assert found.shape == (240, 3)
        np.testing.assert_allclose(np.sum(found, axis=1), np.ones(240), rtol=1e-5)
        # 99.9 % is possible with more steps.
        assert np.mean(np.argmax(found, axis=1) == blobs(1)[1]) > 0.95


class TestPredict:
    def test_is_the_most_probable_class(self):
        found = trained("FM")[0].predict(blobs(1)[0], key=KEY)
        np.testing.assert_array_equal(found, np.argmax(probabilities("FM"), axis=1))

    def test_an_input_does_not_depend_on_the_other_inputs(self):
        inputs = blobs(1)[0].copy()
        inputs[:100] = 17.0
        found = trained("FM")[0].predict_proba(inputs, key=KEY)
        np.testing.assert_array_equal(found[100:], probabilities("FM")[100:])

    def test_the_batch_size_does_not_matter(self):
        """The number of inputs does not matter either, nor that the last batch is not full."""
        found = trained("FM")[0].predict_proba(blobs(1)[0][:7], key=KEY, batch_size=3)
        # Matrix products of another size are summed in another order.
        np.testing.assert_allclose(found, probabilities("FM")[:7], atol=1e-3)

    def test_no_inputs(self):
        assert trained("FM")[0].predict(np.zeros((0, 2), np.float32), key=KEY).shape == (0,)

    @pytest.mark.parametrize(
        "other",
        [
            lambda flow: dataclasses.replace(flow, prediction=fp.EarlyStopPrediction(flow.prediction, 0.9)),
            lambda flow: fp.change_path(flow, fp.CondOTPath()),
        ],
        ids=["early stop", "other path"],
    )
    def test_a_trained_categorical_flow_can_be_solved_in_other_ways(self, other):
        classifier = trained("categorical, VP")[0]
        inputs, labels = blobs(1)
        flow = other(classifier.flow)
        found = eqx.tree_at(lambda c: c.flow, classifier, flow).predict(inputs, key=KEY)
        # The accuracy is the same as before.
        assert np.mean(np.asarray(found) == labels) > 0.95
        assert flow.prediction.takes_embeddings

    def test_follows_the_key(self):
        inputs, still = blobs(1)[0], motionless(trained("FM")[0])
        one, same, other = (still.predict(inputs, key=jax.random.key(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert 0.5 < np.mean(np.asarray(one) != np.asarray(other)) < 0.8

    def test_a_failed_solve_gives_no_class(self):
        """The velocity of the second input oscillates too fast for the allowed steps; that of the first is 0."""
        network = lambda t, z, x: jnp.sin(x * t) * z  # noqa: E731
        classifier = fp.Classifier(flow=fp.fm_flow(network, shape=(3,)), embedding=fp.one_hot_embedding(3))
        integrator = fp.ODEIntegrator(max_steps=20)
        inputs = np.array([0.0, 1e4, 0.1], np.float32)
        found = np.asarray(classifier.predict(inputs, key=KEY, integrator=integrator))
        assert list(found < 0) == [False, True, False]
        alone = classifier.predict(inputs[:1], key=KEY, integrator=integrator)
        assert found[0] == alone[0]
        counts = classifier.function_evaluations(inputs, key=KEY, integrator=integrator)
        assert counts.shape == (3,)

    def test_more_draws_than_are_solved_at_once(self):
        found = motionless(trained("FM")[0]).predict_proba(blobs(1)[0][:2], key=KEY, num_draws=1500)
        # Noise is decoded as each class with equal probability: 4 standard errors.
        np.testing.assert_allclose(found, np.full((2, 3), 1 / 3), atol=4 * np.sqrt(2 / 9 / 1500))

    @pytest.mark.parametrize("name", ["num_draws", "batch_size"])
    def test_counts_that_are_not_positive_are_refused(self, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            untrained("FM").predict(np.zeros((2, 2), np.float32), key=KEY, **{name: 0})


@pytest.mark.parametrize(
    ("path", "integrator"),
    [
        (fp.CondOTPath(), None),
        (fp.VPPath(fp.SigmoidNoiseSchedule(8.0)), fp.ODEIntegrator(solver=dfx.Heun(), dt0=0.25)),
        (fp.CondOTPath(), fp.ODEIntegrator()),
    ],
    ids=["Euler", "Heun", "adaptive"],
)
def test_function_evaluations_are_the_networks_calls(path, integrator):
    """The count is that of one input alone, whatever the other input needs."""
    calls = []

    def network(t, z, x):
        jax.debug.callback(lambda _: calls.append(1), t)
        return fp.conformance.ClassPosterior(path)(t, z, x)

    classifier = fp.Classifier(flow=categorical(network, path), embedding=fp.one_hot_embedding(3))
    inputs = np.log([[0.5, 0.3, 0.2], [0.9998, 0.0001, 0.0001]], dtype=np.float32)
    found = np.asarray(classifier.function_evaluations(inputs, key=KEY, integrator=integrator))
    jax.effects_barrier()
    calls.clear()
    jax.block_until_ready(classifier.predict(inputs[:1], key=KEY, integrator=integrator))
    jax.effects_barrier()
    assert found[0] == len(calls)
    match integrator:
        case None:  # ten steps, and one evaluation of the target at the end of the span
            assert list(found) == [11, 11]
        case fp.ODEIntegrator(solver=dfx.Heun()):
            assert list(found) == [8, 8]
        case _:
            assert found[0] != found[1]


def motionless(classifier):
    """The same classifier with a velocity of 0: it decodes the noise it started from."""
    return eqx.tree_at(
        lambda c: (c.flow.network.layers[-1].weight, c.flow.network.layers[-1].bias),
        classifier,
        replace_fn=jnp.zeros_like,
    )


def test_the_readout_does_not_see_the_input():
    """If the end point is noise, a trained classifier is at chance level, and the input does not affect it."""
    still = motionless(trained("FM")[0])
    inputs, labels = blobs(1)
    found = np.asarray(still.predict_proba(inputs, key=KEY))
    np.testing.assert_array_equal(found, still.predict_proba(inputs[::-1], key=KEY))
    error = np.sqrt(1 / 3 * 2 / 3 / len(labels))
    assert abs(np.mean(np.argmax(found, axis=1) == labels) - 1 / 3) < 4 * error


def counting(calls):
    def encoder(example):
        jax.debug.callback(lambda _: calls.append(1), example)  # called once for each example under `vmap`
        return example

    return encoder


def test_many_draws_estimate_the_probabilities_by_one_encoding():
    """With the exact denoiser, the fraction of draws that end at a class is p(y | x)."""
    calls = []
    priors = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]], np.float32)
    classifier = fp.Classifier(
        encoder=counting(calls),
        flow=categorical(fp.conformance.ClassPosterior(fp.CondOTPath()), fp.CondOTPath()),
        embedding=fp.one_hot_embedding(3),
    )
    integrator = fp.ODEIntegrator(solver=dfx.Heun(), dt0=0.033)
    found = classifier.predict_proba(jnp.log(priors), key=KEY, integrator=integrator, num_draws=2000, batch_size=2)
    jax.block_until_ready(found)
    jax.effects_barrier()
    # 2,000 draws of 60 evaluations each, but four encodings: three inputs in two batches of two.
    assert len(calls) == 4
    # 4 standard errors, and 0.01 for the discretisation and for a readout that is not exactly 0 or 1.
    assert np.all(np.abs(found - priors) < 4 * np.sqrt(priors * (1 - priors) / 2000) + 0.01)


class Constant(eqx.Module):
    output: jax.Array

    def __call__(self, t, z, x):
        return self.output


class Stateful(eqx.Module):
    has_state: bool = True

    def __call__(self, t, z, x):
        return z


class Dropped(eqx.Module):
    """Logits that are 0 in training and (0, 0, 9) in prediction, like a network with dropout."""

    inference: bool = False

    def __call__(self, t, z, x, *, key=None):
        return jnp.where(self.inference, jnp.array([0.0, 0.0, 9.0]), jnp.zeros(3))


# Without `jit`, compiling it operation by operation takes seconds.
loss_of = eqx.filter_jit(lambda classifier, inputs, labels: classifier.loss(inputs, labels, key=KEY))


class TestLoss:
    def test_cross_entropy_of_constant_logits(self):
        logits = np.array([0.3, -1.0, 2.0], np.float32)
        classifier = fp.Classifier(
            flow=categorical(Constant(jnp.asarray(logits)), fp.CondOTPath()), embedding=fp.one_hot_embedding(3)
        )
        inputs, labels = blobs(0, 50)
        wanted = np.mean(np.log(np.sum(np.exp(logits))) - logits[labels])
        assert float(loss_of(classifier, inputs, labels)) == pytest.approx(wanted, rel=1e-5)

    def test_regression_against_no_velocity(self):
        """`E |z_1 - z_0|^2` is the dimension plus the squared norm of the embeddings."""
        flow = fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,))
        classifier = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3, norm=2.0))
        inputs, labels = blobs(0, 4000)
        # `|u - z_0|^2` has variance 2 d + 4 |u|^2: 4 standard errors.
        error = np.sqrt((2 * 3 + 4 * 4) / 4000)
        assert abs(float(loss_of(classifier, inputs, labels)) - 7.0) < 4 * error

    @pytest.mark.parametrize("blocks", [True, False])
    def test_a_network_with_dropout_trains_with_it_and_predicts_without(self, blocks):
        embedding = fp.one_hot_embedding(3)
        if blocks:
            model = fp.NoPropDT([Dropped()] * 2, embedding=embedding)
        else:
            model = fp.Classifier(flow=categorical(Dropped(), fp.CondOTPath()), embedding=embedding)
        inputs, labels = blobs(0, 20)
        assert float(loss_of(model, inputs, labels)) == pytest.approx(np.log(3), rel=1e-5)
        np.testing.assert_array_equal(model.predict(inputs, key=KEY), np.full(20, 2))

    def test_each_input_is_encoded_once(self):
        calls = []
        flow = fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,))
        classifier = fp.Classifier(encoder=counting(calls), flow=flow, embedding=fp.one_hot_embedding(3))
        jax.block_until_ready(loss_of(classifier, *blobs(0, 5)))
        jax.effects_barrier()
        assert len(calls) == 5

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros(3, int), r"`labels` has shape \(3,\) where \(4,\)"),
            (np.zeros((4, 1), int), r"`labels\[:, 0\]"),
            (np.array([0, 1, 2, 3]), r"`labels` lie in \[0, 3\]"),
            (np.array([0, -1, 2, 1]), r"`labels` lie in \[-1, 2\]"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(self, labels, message):
        classifier = fp.Classifier(
            flow=fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,)), embedding=fp.one_hot_embedding(3)
        )
        with pytest.raises((ValueError, TypeError), match=message):
            classifier.loss(np.zeros((4, 2), np.float32), labels, key=KEY)

    def test_a_label_out_of_range_inside_jit_is_nan(self):
        classifier = fp.Classifier(
            flow=fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,)), embedding=fp.one_hot_embedding(3)
        )
        loss = loss_of(classifier, np.zeros((2, 2), np.float32), jnp.array([0, 3]))
        assert np.isnan(float(loss))


class TestConstruction:
    def test_defaults(self):
        assert isinstance(untrained("FM").objective, fp.RegressionObjective)
        assert isinstance(untrained("categorical, VP").objective, fp.CrossEntropyObjective)
        bare = fp.Classifier(flow=fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,)), embedding=fp.one_hot_embedding(3))
        assert isinstance(bare.readout, fp.RadialReadout)
        np.testing.assert_array_equal(bare.condition(jnp.arange(2.0)), [0.0, 1.0])

    def test_the_condition_contains_the_embeddings_only_if_they_are_needed(self):
        features, matrix = untrained("categorical, VP").condition(jnp.ones(2))
        np.testing.assert_array_equal(matrix, np.eye(3))
        # Both encoders were made with the same key.
        np.testing.assert_array_equal(untrained("FM").condition(jnp.ones(2)), features)

    def test_an_embedding_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"`flow` has shape \(3,\) where `embedding` has points of \(4,\)"):
            fp.Classifier(flow=fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,)), embedding=fp.one_hot_embedding(4))

    def test_the_default_objective_is_the_same_with_an_early_stop(self):
        flow = untrained("categorical, VP").flow
        early = dataclasses.replace(flow, prediction=fp.EarlyStopPrediction(flow.prediction))
        changed = fp.change_path(flow, fp.CondOTPath())
        for flow, wanted in ((early, fp.CrossEntropyObjective), (changed, fp.RegressionObjective)):
            found = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3)).objective
            assert isinstance(found, wanted)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"transform": Standardise(0.0, 2.0)}, "`flow` has the transform Standardise"),
            ({"encoder": jnp.sin}, "`flow` has an encoder of its own"),
            ({"network": Stateful()}, "`flow` has a network with a state, which a classifier cannot train"),
        ],
    )
    def test_a_flow_of_data_is_refused(self, change, message):
        settings = {"network": Constant(jnp.zeros(3))} | change
        flow = fp.Flow(settings.pop("network"), fp.CondOTPath(), fp.VelocityPrediction(), shape=(3,), **settings)
        with pytest.raises(ValueError, match=message):
            fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3))

    def test_cross_entropy_without_logits_is_refused(self):
        with pytest.raises(ValueError, match="`objective` CrossEntropyObjective needs a network that returns logits"):
            fp.Classifier(
                flow=fp.fm_flow(Constant(jnp.zeros(3)), shape=(3,)),
                embedding=fp.one_hot_embedding(3),
                objective=fp.CrossEntropyObjective(),
            )


class TestLearnedEmbedding:
    LEARNED = "categorical, CondOT"

    def test_is_one_leaf(self):
        classifier = untrained(self.LEARNED)
        parameters, _ = eqx.partition(classifier, fp.trainable(classifier))
        assert [leaf.shape for leaf in jax.tree.leaves(parameters)].count((3, 5)) == 1

    def test_trains_on_its_sphere(self):
        before = np.asarray(untrained(self.LEARNED).embedding.matrix)
        after = np.asarray(trained(self.LEARNED)[0].embedding.matrix)
        assert np.all(np.max(np.abs(after - before), axis=1) > 1e-2)
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.full(3, 1.5), rtol=1e-5)

    def test_is_passed_to_the_flow(self):
        classifier = trained(self.LEARNED)[0]
        np.testing.assert_array_equal(classifier.condition(jnp.ones(2))[1], classifier.embedding.matrix)

    def test_has_a_gradient_by_the_squared_error_as_well(self):
        flow = fp.fm_flow(Constant(jnp.zeros(5)), shape=(5,))
        classifier = fp.Classifier(flow=flow, embedding=fp.Embedding(1 + jnp.arange(20.0).reshape(4, 5)))
        gradient = eqx.filter_grad(loss_of)(classifier, *blobs(0, 60)).embedding.rows
        assert np.all(np.max(np.abs(gradient), axis=1)[:3] > 1e-4)
        # The fourth class has no example.
        np.testing.assert_array_equal(gradient[3], np.zeros(5))
