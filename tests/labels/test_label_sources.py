"""Sources and couplings of labels: training uses those of the flow, as prediction does, or refuses them."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_forms import blobs

import flowprop as fp


KEY = jax.random.key(17)
EMBEDDING = np.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], np.float32)
INPUTS, LABELS = blobs(0, 6)


class Constant(eqx.Module):
    output: jax.Array

    def __call__(self, t, z, x):
        return self.output


class FarSource(fp.AbstractSource):
    """All its points are within 0.1 of `centre`. It records every call."""

    asked: list = eqx.field(static=True)
    centre: float = 7.0

    def sample(self, num_points, shape, *, key):
        self.asked.append("source")
        return self.centre + 0.1 * jax.random.normal(key, (num_points, *shape))

    def log_prob(self, z0):
        return jax.scipy.stats.norm.logpdf(z0, self.centre, 0.1).sum()


class Reversed(fp.AbstractCoupling):
    """Pairs the last noise with the first data. It records the condition that it was given."""

    asked: list = eqx.field(static=True)

    def pair(self, z0, z1, x, *, key):
        self.asked.append(x)
        return z0[::-1]


def flow_of(source, coupling, prediction=None):
    output = jnp.zeros(2 if prediction is None else 3)
    return fp.Flow(
        Constant(output),
        fp.CondOTPath(),
        fp.VelocityPrediction() if prediction is None else prediction,
        shape=(2,),
        source=source,
        coupling=coupling,
    )


def classifier(source=None, coupling=None, objective=None, prediction=None):
    return fp.Classifier(
        flow=flow_of(source, coupling, prediction),
        embedding=fp.Embedding(jnp.asarray(EMBEDDING)),
        objective=objective,
        encoder=lambda x: 2 * x,
    )


# Name -> an objective, and a prediction that suits it.
OBJECTIVES = {
    "regression": (fp.RegressionObjective(), None),
    "cross-entropy": (fp.CrossEntropyObjective(), fp.CategoricalPrediction()),
    "flow matching": (fp.FlowMatchingObjective(), None),
    "blurred": (fp.FlowMatchingObjective(path_noise=0.3), None),
    "categorical regression": (fp.RegressionObjective(), fp.CategoricalPrediction()),
}


class TestTraining:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_a_classifier_uses_the_source_and_the_coupling(self, name):
        objective, prediction = OBJECTIVES[name]
        asked, pairs = [], []
        model = classifier(FarSource(asked), Reversed(pairs), objective, prediction)
        assert np.isfinite(float(model.loss(INPUTS, LABELS, key=KEY)))
        assert asked == ["source"]
        # The condition is the features, not the labels.
        np.testing.assert_array_equal(pairs[0], 2 * INPUTS)

    def test_a_regressor_uses_the_source_and_the_coupling(self):
        asked, pairs = [], []
        model = fp.Regressor(flow=flow_of(FarSource(asked), Reversed(pairs)), encoder=lambda x: 2 * x)
        assert np.isfinite(float(model.loss(INPUTS, EMBEDDING[LABELS], key=KEY)))
        assert asked == ["source"]
        np.testing.assert_array_equal(pairs[0], 2 * INPUTS)

    def test_the_adjoint_starts_from_the_source_and_pairs_nothing(self):
        asked, pairs = [], []
        model = fp.AdjointClassifier(classifier(FarSource(asked), Reversed(pairs)))
        loss = float(model.loss(INPUTS, LABELS, key=KEY))
        assert (asked, pairs) == (["source"], [])
        # The velocity is 0, so the end is near (7, 7), whose nearest embedding is the second.
        squares = np.sum((7 - EMBEDDING) ** 2, axis=1)
        logits = -squares / (2 * 0.2**2 * 1.6**2)
        wanted = np.mean(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[LABELS])
        # The source's 0.1 over six points, times the gradient of a logit, 60.
        assert loss == pytest.approx(wanted, abs=8)

    @pytest.mark.parametrize(("source", "wanted"), [(None, 2.0), (7.0, 2 * 49 + 2 * 0.01)])
    def test_the_regression_uses_the_noise_of_the_source(self, source, wanted):
        """`E |z_1 - z_0|^2 = |E z_0|^2 - 2 z_1 E z_0 + |z_1|^2 + tr Cov z_0` for a velocity of 0."""
        model = classifier(None if source is None else FarSource([], source), objective=fp.RegressionObjective())
        labels = np.arange(3000) % 3
        found = float(eqx.filter_jit(model.loss)(np.zeros((3000, 2), np.float32), labels, key=KEY))
        squares = np.sum(EMBEDDING**2, axis=1)
        wanted += np.mean(squares) - 2 * (source or 0.0) * np.mean(np.sum(EMBEDDING, axis=1))
        # 4 standard errors: over noise N(m, s^2 I) the variance of |z_1 - z_0|^2 is 2 d s^4 + 4 s^2 |z_1 - m|^2.
        variance = 4 + 4 * 1 if source is None else 4 * 0.01 * 120
        assert found == pytest.approx(wanted, abs=4 * np.sqrt(variance / 3000))

    def test_the_coupling_changes_the_pairs(self):
        """The error is that of the paired noise, not of the noise that was drawn in its row."""
        pairs = []
        flow = fp.Flow(
            Constant(jnp.zeros(2)), fp.CondOTPath(), fp.NoisePrediction(), shape=(2,), coupling=Reversed(pairs)
        )
        model = fp.Classifier(flow=flow, embedding=fp.Embedding(jnp.asarray(EMBEDDING)))
        plain = fp.Classifier(
            flow=eqx.tree_at(lambda f: f.coupling, flow, fp.IndependentCoupling()),
            embedding=model.embedding,
        )
        first, last = (np.eye(6, dtype=np.float32)[i] * 6 for i in (0, 5))
        found = model.loss(INPUTS, LABELS, key=KEY, weights=first)
        np.testing.assert_allclose(found, plain.loss(INPUTS, LABELS, key=KEY, weights=last), rtol=1e-6)

    def test_within_classes_of_features(self):
        """`ClassCost` on features that all differ leaves every pair as drawn: the noise is independent of `x`."""
        model = classifier(coupling=fp.ConditionalOTCoupling(fp.ClassCost()))
        assert np.isfinite(float(model.loss(INPUTS, LABELS, key=KEY)))


class TestPrecision:
    @pytest.mark.parametrize("make", [classifier, lambda: fp.AdjointClassifier(classifier())])
    def test_noise_has_the_embeddings_type(self, make, x64):
        model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, make())
        loss = model.loss(INPUTS, LABELS, key=KEY)
        assert loss.dtype == jnp.float32
        assert model.predict_proba(INPUTS, key=KEY).dtype == jnp.float32


class TestRefusals:
    @pytest.mark.parametrize(
        ("source", "coupling", "message"),
        [
            (FarSource([]), None, "`source` of the flow is FarSource: `ELBOObjective` needs noise that is gaussian"),
            (None, Reversed([]), "`coupling` of the flow is Reversed: `ELBOObjective` needs noise that is gaussian"),
        ],
    )
    def test_a_bound_needs_gaussian_noise(self, source, coupling, message):
        with pytest.raises(ValueError, match=message) as error:
            classifier(source, coupling, fp.ELBOObjective())
        assert "`fp.GaussianSource()`" in str(error.value) or "`fp.IndependentCoupling()`" in str(error.value)

    def test_blocks_with_another_source(self):
        networks = [fp.nn.MLP((3,), condition_size=2, width=4, depth=1, key=key) for key in jax.random.split(KEY, 2)]
        blocks = fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3))
        other = eqx.tree_at(lambda model: model.flow.source, blocks, FarSource([]))
        for run in (
            lambda: other.predict(INPUTS, key=KEY),
            lambda: fp.BackpropClassifier(other).loss(INPUTS, LABELS, key=KEY),
            lambda: other.loss(INPUTS, LABELS, key=KEY),
        ):
            with pytest.raises(ValueError, match="`source` of the flow is FarSource"):
                run()

    @pytest.mark.parametrize("objective", [fp.ELBOObjective(), fp.FlowMatchingObjective()])
    def test_a_readout_without_a_gradient(self, objective):
        with pytest.raises(ValueError, match="`readout` is NearestReadout, which has no gradient"):
            fp.Classifier(
                flow=flow_of(None, None),
                embedding=fp.Embedding(jnp.asarray(EMBEDDING)),
                readout=fp.NearestReadout(),
                objective=objective,
            )

    def test_a_readout_without_a_gradient_is_fine_if_the_loss_does_not_use_it(self):
        model = fp.Classifier(
            flow=flow_of(None, None),
            embedding=fp.Embedding(fp.Frozen(jnp.asarray(EMBEDDING))),
            readout=fp.NearestReadout(),
            objective=fp.FlowMatchingObjective(),
        )
        assert np.isfinite(float(model.loss(INPUTS, LABELS, key=KEY)))

    def test_baselines_need_a_gradient(self):
        networks = [Constant(jnp.zeros(3))] * 2
        blocks = fp.NoPropDT(networks, embedding=fp.one_hot_embedding(3), readout=fp.NearestReadout())
        nearest = eqx.tree_at(lambda c: c.readout, classifier(), fp.NearestReadout())
        for make in (lambda: fp.BackpropClassifier(blocks), lambda: fp.AdjointClassifier(nearest)):
            with pytest.raises(ValueError, match="`readout` is NearestReadout"):
                make()


def test_labels_from_data_are_learned():
    """A flow that starts at two distant points, and is trained from there, reaches the classes."""
    points = jnp.array([[4.0, 4.0], [4.0, -4.0]])
    network = fp.nn.MLP((2,), condition_size=2, width=32, depth=2, key=KEY)
    flow = fp.fm_flow(network, shape=(2,), source=fp.EmpiricalSource(points))
    model = fp.Classifier(flow=flow, embedding=fp.Embedding(fp.Frozen(jnp.asarray(EMBEDDING))))
    trained, _ = fp.fit(model, blobs(0), optax.adam(5e-3), steps=300, batch_size=80, key=KEY, progress=False)
    inputs, labels = blobs(1)
    found = trained.predict(inputs, key=KEY, integrator=fp.ODEIntegrator(dfx.Euler(), dt0=0.05))
    # 99.9 % is possible.
    assert np.mean(np.asarray(found) == labels) > 0.9
