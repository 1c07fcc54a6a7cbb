"""Labels of every type, weights of examples, and inputs that are not finite."""

import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import blobs

import flowprop as fp


KEY = jax.random.key(23)
T = 2
INPUTS, LABELS = blobs(0, 12)
WEIGHTS = np.random.default_rng(0).uniform(0, 2, 12).astype(np.float32)


@functools.cache
def network(seed=0):
    return fp.nn.MLP((3,), condition_size=2, width=8, depth=1, key=jax.random.key(seed))


class Blind(eqx.Module):
    """Logits that depend on the input only."""

    weight: jax.Array

    def __call__(self, t, z, x):
        return jnp.sin(x @ self.weight + jnp.arange(3))


@functools.cache
def encoder(seed):
    return fp.nn.Linear(2, 2, key=jax.random.key(seed))


@functools.cache
def classifier(schedule=None):
    schedule = fp.LearnableNoiseSchedule((4,), key=KEY) if schedule == "learnable" else fp.CosineNoiseSchedule()
    flow = fp.Flow(network(), fp.VPPath(schedule), fp.CategoricalPrediction(), shape=(3,))
    return fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3))


def blocks(**kwargs):
    return fp.NoPropDT([network(i) for i in range(T)], embedding=fp.one_hot_embedding(3), **kwargs)


def bound():
    flow = fp.ct_flow(network(), shape=(3,), weighting=fp.ELBOWeighting())
    return fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3), objective=fp.ELBOObjective())


# All models that are trained on labels.
MODELS = {
    "classifier": classifier,
    "bound": bound,
    "learnable schedule": lambda: classifier("learnable"),
    "blocks": blocks,
    "blocks in turn": lambda: blocks(encoder=[encoder(i) for i in range(T)]),
    "back-propagation": lambda: fp.BackpropClassifier(blocks()),
    "adjoint": lambda: fp.AdjointClassifier(classifier(), fp.ODEIntegrator(dfx.Euler(), dt0=0.5)),
}
KINDS = ("classifier", "blocks", "back-propagation", "adjoint")


class Frame:
    """A column of a data frame."""

    def to_numpy(self):
        return LABELS


WRONG = {
    "floats": (LABELS.astype(float), r"`labels.astype\(int\)`"),
    "one-hot": (np.eye(3, dtype=np.float32)[LABELS], r"`labels.argmax\(axis=1\)`"),
    "one-hot of integers": (np.eye(3, dtype=int)[LABELS], r"`labels.argmax\(axis=1\)`"),
    "a column": (LABELS[:, None], r"`labels\[:, 0\]"),
    "names": (np.array(["a", "b", "c"])[LABELS], r"`np.unique\(labels, return_inverse=True\)\[1\]`"),
    "a list of names": (["a"] * 12, r"`np.unique\(labels"),
    "objects": (LABELS.astype(object), r"`np.unique\(labels"),
    "booleans": (LABELS > 0, r"`labels.astype\(int\)`"),
    "a data frame": (Frame(), r"`.to_numpy\(\)`"),
    "a ragged list": ([[1], [1, 2]], "rows of unequal length"),
    "one number": (np.asarray(1), "`labels` has shape"),
    "too few": (LABELS[1:], r"\(11,\) where \(12,\)"),
    "too large": (np.full(12, 3), r"\[3, 3\]: the embedding has classes 0 to 2"),
    "negative": ([-1] * 12, r"\[-1, -1\]"),
    "to be ignored": (np.full(12, 255, np.uint8), r"\[255, 255\]"),
}


class TestLabels:
    @pytest.mark.parametrize("what", WRONG)
    @pytest.mark.parametrize("name", KINDS)
    def test_that_do_not_fit_are_refused_with_the_remedy(self, name, what):
        """Both the loss and the check of the whole data set refuse them, in one short sentence."""
        labels, message = WRONG[what]
        model = MODELS[name]()
        for check in (lambda: model.loss(INPUTS, labels, key=KEY), lambda: model.check_data(INPUTS, labels)):
            with pytest.raises((TypeError, ValueError), match=message) as error:
                check()
            assert "`labels`" in str(error.value)
            assert len(str(error.value)) < 200

    @pytest.mark.parametrize(
        "labels",
        [
            LABELS.tolist(),
            tuple(LABELS.tolist()),
            *[LABELS.astype(kind) for kind in ("int8", "uint8", "int16", "uint32", "uint64", ">i4")],
            jnp.asarray(LABELS),
        ],
        ids=lambda labels: f"{type(labels).__name__} {getattr(labels, 'dtype', '')}",
    )
    def test_integers_of_any_width_are_the_same(self, labels):
        wanted = loss_of(classifier(), INPUTS, jnp.asarray(LABELS, jnp.int32))
        assert float(classifier().loss(INPUTS, labels, key=KEY)) == pytest.approx(float(wanted), rel=1e-5)
        np.testing.assert_array_equal(fp.one_hot_embedding(3)(labels), np.eye(3)[LABELS])

    def test_prototypes_take_a_list(self):
        found = fp.prototype_embedding(INPUTS, LABELS.tolist(), norm=None)
        np.testing.assert_array_equal(found.matrix, fp.prototype_embedding(INPUTS, LABELS, norm=None).matrix)

    @pytest.mark.parametrize("name", KINDS)
    def test_data_that_fit_pass(self, name):
        assert MODELS[name]().check_data(INPUTS, LABELS) is None


loss_of = eqx.filter_jit(lambda model, *batch, weights=None: model.loss(*batch, key=KEY, weights=weights))
gradient_of = eqx.filter_jit(eqx.filter_grad(lambda model, *batch: model.loss(*batch[:2], key=KEY, weights=batch[2])))


class TestWeights:
    @pytest.mark.parametrize("name", MODELS)
    def test_multiply_each_examples_loss(self, name):
        """The loss is linear in the weights: a weight on one example alone gives the loss of that example."""
        model = MODELS[name]()
        single = [float(loss_of(model, INPUTS, LABELS, weights=12 * row)) for row in np.eye(12, dtype=np.float32)]
        found = float(loss_of(model, INPUTS, LABELS, weights=WEIGHTS))
        assert found == pytest.approx(np.mean(WEIGHTS * np.asarray(single)), rel=1e-4)
        assert float(loss_of(model, INPUTS, LABELS)) == pytest.approx(np.mean(single), rel=1e-4)

    @pytest.mark.parametrize("in_turn", [None, True, False])
    def test_have_the_effect_of_repeated_rows(self, in_turn):
        """The logits depend on the input only, so that noise does not change the cross-entropy."""
        if in_turn is None:
            model = eqx.tree_at(lambda model: model.flow.network, classifier(), Blind(jnp.ones((2, 3))))
        else:
            settings = {"encoder": [eqx.nn.Identity()] * T} if in_turn else {}
            networks = [Blind(jnp.ones((2, 3)) * i) for i in range(T)]
            model = fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3), **settings)
        counts = np.arange(12) % 3
        rows = np.repeat(np.arange(12), counts)
        wanted = loss_of(model, INPUTS[rows], LABELS[rows])
        weights = (counts / np.mean(counts)).astype(np.float32)
        assert float(loss_of(model, INPUTS, LABELS, weights=weights)) == pytest.approx(float(wanted), rel=1e-5)
        assert float(loss_of(model, INPUTS, LABELS)) != pytest.approx(float(wanted), rel=1e-3)

    @pytest.mark.parametrize("name", MODELS)
    def test_reach_the_gradient(self, name):
        """An example of weight 0 has no gradient: another input in its place changes nothing, not even the schedule."""
        weights = np.ones(12, np.float32)
        weights[3] = 0
        other = INPUTS.copy()
        other[3] += 5
        model = MODELS[name]()
        one, same = (gradient_of(model, inputs, LABELS, weights) for inputs in (INPUTS, other))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        changed = gradient_of(model, other, LABELS, np.ones(12, np.float32))
        assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(changed), strict=True))

    def test_can_be_integers(self):
        counts = np.arange(12)
        wanted = loss_of(classifier(), INPUTS, LABELS, weights=counts.astype(np.float32))
        found = classifier().loss(INPUTS, LABELS, key=KEY, weights=counts)
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)

    def test_apply_to_each_block(self):
        model = blocks()
        losses = eqx.filter_jit(lambda weights: model.block_losses(INPUTS, LABELS, key=KEY, weights=weights))
        np.testing.assert_allclose(losses(3 * jnp.ones(12)), 3 * losses(None), rtol=1e-5)

    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (np.ones(11), r"`weights` has shape \(11,\) where \(12,\)"),
            (-np.ones(12), "`weights` holds a negative number"),
            (np.full(12, np.nan), "`weights` holds"),
            (np.full(12, np.inf), "`weights` holds"),
            ([1.0] * 12, "`weights` is a list of 12"),
            (np.array(["1"] * 12), "`weights` holds <U1"),
            (np.ones(12, bool), "`weights` holds bool"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, name, weights, message):
        with pytest.raises((TypeError, ValueError), match=message):
            MODELS[name]().loss(INPUTS, LABELS, key=KEY, weights=weights)


class TestNotFinite:
    @pytest.mark.parametrize("name", KINDS)
    def test_a_row_of_nan_gets_no_class_and_does_not_affect_others(self, name):
        model = MODELS[name]()
        inputs = INPUTS.copy()
        inputs[[2, 7]] = np.nan
        good = np.delete(np.arange(12), [2, 7])
        found, wanted = (np.asarray(model.predict(x, key=KEY)) for x in (inputs, INPUTS))
        assert list(found[[2, 7]]) == [-1, -1]
        np.testing.assert_array_equal(found[good], wanted[good])
        probabilities = np.asarray(model.predict_proba(inputs, key=KEY))
        assert np.all(np.isnan(probabilities[[2, 7]]))
        np.testing.assert_array_equal(probabilities[good], np.asarray(model.predict_proba(INPUTS, key=KEY))[good])

    @pytest.mark.parametrize("name", KINDS)
    def test_a_model_of_nan_is_an_error_with_the_remedy(self, name):
        model = MODELS[name]()
        parameters, rest = eqx.partition(model, fp.trainable(model))
        broken = eqx.combine(jax.tree.map(lambda leaf: leaf * jnp.nan, parameters), rest)
        with pytest.raises(ValueError, match="probabilities of all 12 `inputs` are NaN although the inputs are finite"):
            broken.predict(INPUTS, key=KEY)
        # Inside `jit`, no error can be raised: the result is -1.
        np.testing.assert_array_equal(eqx.filter_jit(broken.predict)(INPUTS, key=KEY), np.full(12, -1))

    def test_an_encoder_does_not_hide_a_row_of_nan(self):
        """On a CPU, compiled code turns NaN into 0 in `jax.nn.relu` after convolutions: the features look right."""
        encoder = fp.nn.ConvEncoder((8, 8, 1), 2, channels=(4,), key=KEY)
        model = fp.Classifier(encoder=encoder, flow=classifier().flow, embedding=fp.one_hot_embedding(3))
        images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
        images[1] = np.nan
        assert list(np.asarray(model.predict(images, key=KEY)) < 0) == [False, True, False]

    def test_inputs_that_are_all_nan_are_no_error(self):
        found = classifier().predict(np.full((3, 2), np.nan, np.float32), key=KEY)
        np.testing.assert_array_equal(found, [-1, -1, -1])
