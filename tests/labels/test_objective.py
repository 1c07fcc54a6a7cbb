"""The terms of each objective against quadrature, the bound against a posterior that is known, and what they train."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


KEY = jax.random.key(3)
ETA = 0.4
LABELS = np.arange(600) % 3
MATRIX = np.array([[0.9, -0.3], [-0.5, 0.8], [0.2, 0.6]])
INPUTS = np.array([[0.3, 0.1], [-0.2, 0.4], [0.5, -0.6]])
SLOPE = np.array([[0.5, 0.2], [-0.3, 0.4]])
WEIGHT, BIAS = np.array([[1.5, -0.7], [-0.4, 2.0], [0.3, 0.9]]), np.array([0.2, -0.1, 0.4])


def single(array):
    return jnp.asarray(array, jnp.float32)


class Affine(eqx.Module):
    """`S z + x`, of which every expectation under gaussian noise is known."""

    slope: jax.Array

    def __call__(self, t, z, x):
        return self.slope @ z + x


@functools.cache
def linear_readout():
    readout = fp.LinearReadout((2,), 3, key=KEY)
    return eqx.tree_at(lambda r: (r.linear.weight, r.linear.bias), readout, (single(WEIGHT), single(BIAS)))


@functools.cache
def schedule():
    return fp.LearnableNoiseSchedule((4,), (-3.0, 2.0), trainable_ends=True, key=KEY)


def affine(make, objective, **kwargs):
    """The classifier of linear readout whose network is `Affine`."""
    return fp.Classifier(
        flow=make(Affine(single(SLOPE)), shape=(2,), **kwargs),
        embedding=fp.Embedding(fp.Frozen(single(MATRIX))),
        readout=linear_readout(),
        objective=objective,
    )


def bound():
    return affine(fp.ct_flow, fp.ELBOObjective(eta=ETA), schedule=schedule())


LOGITS = 2 * np.eye(3, dtype=np.float32)[LABELS]


def categorical(objective):
    """A classifier by logits `S z + x`."""
    return fp.Classifier(
        flow=fp.ct_flow(Affine(single(WEIGHT)), shape=(2,), schedule=schedule(), prediction=fp.CategoricalPrediction()),
        embedding=fp.Embedding(fp.Frozen(single(MATRIX))),
        objective=objective,
    )


@eqx.filter_jit
def terms_of(classifier, inputs, labels, keys):
    """Many estimates of each term: one for each key. Beside them the loss, of the same keys."""

    def one(key):
        return classifier.terms(inputs, labels, key=key), classifier.loss(inputs, labels, key=key)

    return jax.vmap(one)(keys)


def agrees(estimates, wanted, precision=0.01):
    """Within 4 standard errors, which are small enough to tell."""
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert error < precision * max(abs(wanted), 1)
    assert abs(np.mean(estimates) - wanted) < 4 * error


# Three dozen nodes integrate a logarithm of a softmax to 1e-8 or so.
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(36)
NORMAL = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2)
NORMAL_WEIGHTS = np.outer(NODE_WEIGHTS, NODE_WEIGHTS).ravel() / (2 * np.pi)


def cross_entropy(mean, factor, label):
    """`E[-log p_out(label | z)]` of the linear readout for `z ~ N(mean, factor factor^T)`."""
    logits = (mean + NORMAL @ factor.T) @ WEIGHT.T + BIAS
    return NORMAL_WEIGHTS @ (np.log(np.sum(np.exp(logits), axis=1)) - logits[:, label])


def over_time(function, start, end):
    """An integral by 40 nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    places = (start + end) / 2 + (end - start) / 2 * nodes
    return (end - start) / 2 * sum(w * function(t) for w, t in zip(weights, places, strict=True))


def elbo_by_hand(start, end):
    """The terms of `bound` for end points of the log-SNR, in NumPy's float64: the mean over the three classes."""
    share = 1 / (1 + np.exp(-start))

    def error(gamma, u, x):
        alpha, sigma = (1 / np.sqrt(1 + np.exp(-sign * gamma)) for sign in (1, -1))
        return np.sum((SLOPE @ (alpha * u) + x - u) ** 2) + sigma**2 * np.sum(SLOPE**2)

    def terms(label):
        u, x = MATRIX[label], INPUTS[label]
        # Between two gaussians: the trace, the means, the dimension, the determinant.
        prior = 0.5 * (2 * (1 - share) + share * np.sum(u**2) - 2 - 2 * np.log(1 - share))
        regression = over_time(lambda gamma: np.exp(gamma) / 2 * error(gamma, u, x), start, end)
        return cross_entropy(u, np.exp(-end / 2) * np.eye(2), label), prior, ETA * regression

    means = np.mean([terms(label) for label in range(3)], axis=0)
    return dict(zip(("readout", "prior", "regression"), means, strict=True))


def flow_matching_by_hand(noise):
    """Its terms, with `v = S z + x` at `z = t z_1 + (1 - t) z_0`, and noise of its own."""

    def terms(label):
        u, x = MATRIX[label], INPUTS[label]

        def regression(t):
            mean = t * SLOPE @ u + x - u
            return np.sum(mean**2) + np.sum(((1 - t) * SLOPE + np.eye(2)) ** 2) + noise**2 * np.sum(SLOPE**2)

        def anchor(t):
            ahead = np.eye(2) + (1 - t) * SLOPE
            return cross_entropy(ahead @ (t * u) + (1 - t) * x, np.hypot(1 - t, noise) * ahead, label)

        return over_time(regression, 0, 1), over_time(anchor, 0, 1)

    return dict(zip(("regression", "anchor"), np.mean([terms(label) for label in range(3)], axis=0), strict=True))


PATH_NOISE = {"flow matching": 0.0, "blurred flow matching": 0.7}


@functools.cache
def found(name):
    classifier = bound() if name == "bound" else affine(fp.fm_flow, fp.FlowMatchingObjective(PATH_NOISE[name]))
    return terms_of(classifier, single(INPUTS)[LABELS], LABELS, jax.random.split(KEY, 64))


class TestTerms:
    @pytest.mark.parametrize("term", ["readout", "regression"])
    def test_of_the_bound(self, term):
        agrees(np.asarray(found("bound")[0][term], float), elbo_by_hand(-3.0, 2.0)[term])

    def test_the_prior_has_no_noise(self):
        np.testing.assert_allclose(found("bound")[0]["prior"], np.full(64, elbo_by_hand(-3.0, 2.0)["prior"]), rtol=1e-4)

    @pytest.mark.parametrize("term", ["regression", "anchor"])
    @pytest.mark.parametrize("name", PATH_NOISE)
    def test_of_flow_matching(self, name, term):
        agrees(np.asarray(found(name)[0][term], float), flow_matching_by_hand(PATH_NOISE[name])[term])

    def test_their_names(self):
        assert set(found("bound")[0]) == {"readout", "prior", "regression", "schedule"}
        assert set(found("flow matching")[0]) == {"regression", "anchor"}

    def test_the_schedules_has_no_value(self):
        np.testing.assert_array_equal(found("bound")[0]["schedule"], np.zeros(64))

    @pytest.mark.parametrize("name", ["bound", "flow matching"])
    def test_the_loss_is_their_sum(self, name):
        terms, loss = found(name)
        np.testing.assert_allclose(loss, np.sum(list(terms.values()), axis=0), rtol=1e-5)

    @pytest.mark.parametrize(
        ("learned", "linear", "anchored"), [(False, False, False), (True, False, True), (False, True, True)]
    )
    def test_an_anchor_is_there_for_what_it_trains(self, learned, linear, anchored):
        classifier = fp.Classifier(
            flow=fp.fm_flow(Affine(single(SLOPE)), shape=(2,)),
            embedding=fp.Embedding(single(MATRIX) if learned else fp.Frozen(single(MATRIX))),
            readout=linear_readout() if linear else fp.RadialReadout(),
            objective=fp.FlowMatchingObjective(),
        )
        terms = eqx.filter_eval_shape(classifier.terms, single(INPUTS), jnp.arange(3), key=KEY)
        assert ("anchor" in terms) == anchored


def test_with_the_exact_denoiser_the_bound_is_the_likelihood():
    """`-log p(y | x)` of each class alone: were a term weighed wrongly, the rarer class would betray it."""
    path = fp.VPPath(fp.SigmoidNoiseSchedule(13.0))
    flow = fp.Flow(
        fp.conformance.ClassPosterior(path), path, fp.CategoricalPrediction(), shape=(2,), weighting=fp.ELBOWeighting()
    )
    classifier = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(2), objective=fp.ELBOObjective())
    posterior = np.log([0.7, 0.3])
    for label in range(2):
        inputs = np.broadcast_to(posterior.astype(np.float32), (5000, 2))
        _, total = terms_of(classifier, inputs, np.full(5000, label), jax.random.split(KEY, 100))
        total = np.asarray(total, float)
        error = np.std(total) / np.sqrt(len(total))
        assert error < 0.01
        # Of prior and readout 8e-4 is left at these end points.
        assert -4 * error < np.mean(total) + posterior[label] < 4 * error + 1e-3


# What Jacobians are taken of: the terms, each in the end points and in the shape's parameters.
@eqx.filter_jit
def gradients(model, inputs, labels, keys):
    parameters, rest = eqx.partition(model, fp.trainable(model))

    def terms(parameters, key):
        return eqx.combine(parameters, rest).terms(inputs, labels, key=key)

    return jax.vmap(lambda key: jax.jacrev(terms)(parameters, key))(keys)


@functools.cache
def bound_gradients():
    jacobian = gradients(bound(), single(INPUTS)[LABELS], LABELS, jax.random.split(KEY, 64))
    return {name: jacobian[name].flow.path.schedule for name in jacobian}


def slope(function, x, step=1e-4):
    return (function(x + step) - function(x - step)) / (2 * step)


class TestEndPoints:
    """A learnable schedule's end points are trained by the bound, and by nothing else."""

    @pytest.mark.parametrize("term", ["readout", "prior", "regression"])
    def test_the_bounds_gradient(self, term):
        """`gamma_0 = start`, `gamma_1 = start + exp(log_rise)`."""
        both = slope(lambda d: elbo_by_hand(-3.0 + d, 2.0 + d)[term], 0.0)
        rise = slope(lambda d: elbo_by_hand(-3.0, 2.0 + d)[term], 0.0) * 5.0
        ends = bound_gradients()[term].end_points
        for estimates, wanted in ((ends.start, both), (ends.log_rise, rise)):
            if term == "prior":
                np.testing.assert_allclose(estimates, np.full(64, wanted), rtol=1e-3, atol=1e-6)
            else:
                agrees(np.asarray(estimates, float), wanted, precision=0.03)

    def test_the_shape_has_none_from_the_bound(self):
        """Only from the term that lowers its variance, which has none for the end points."""
        for name, found in bound_gradients().items():
            shape = jax.tree.leaves((found.weights, found.biases))
            if name == "schedule":
                assert min(float(jnp.max(jnp.abs(leaf))) for leaf in shape) > 1e-5
                shape = jax.tree.leaves(found.end_points)
            assert shape
            for leaf in shape:
                np.testing.assert_array_equal(leaf, np.zeros_like(leaf))

    def test_cross_entropy_leaves_them(self):
        jacobian = gradients(categorical(None), LOGITS, LABELS, jax.random.split(KEY, 1))
        assert set(jacobian) == {"cross_entropy", "schedule"}
        self.assert_fixed(*(jacobian[name].flow.path.schedule for name in ("cross_entropy", "schedule")))

    def test_a_flows_own_loss_leaves_them(self):
        gradient = eqx.filter_jit(eqx.filter_grad(lambda flow: flow.loss(single(MATRIX), single(INPUTS), key=KEY)))
        self.assert_fixed(gradient(bound().flow).path.schedule)

    @staticmethod
    def assert_fixed(*schedules):
        for found in schedules:
            np.testing.assert_array_equal(np.ravel(jax.tree.leaves(found.end_points)), np.zeros(2))
        assert float(jnp.max(jnp.abs(schedules[-1].weights[0]))) > 1e-5

    @pytest.mark.slow
    def test_after_training(self):
        """They have moved, are in order, and have not run away."""
        before = categorical(fp.ELBOObjective())
        trained, history = fp.fit(
            before, (LOGITS, LABELS), optax.adam(1e-2), steps=400, batch_size=60, key=KEY, progress=False
        )
        start, end = (float(value) for value in trained.flow.path.schedule.gamma_range)
        assert -6 < start < end < 8
        # More certainty helps the readout most.
        assert abs(start + 3) > 0.05
        assert end > 2.5
        assert np.mean(history["loss"][-50:]) < np.mean(history["loss"][:10])


class TestRefusals:
    @pytest.mark.parametrize("objective", [fp.RegressionObjective(), None])
    def test_a_readout_that_would_not_be_trained(self, objective):
        with pytest.raises(ValueError, match="`readout` is LinearReadout, whose parameters"):
            affine(fp.fm_flow, objective)

    def test_a_readout_without_parameters_needs_none(self):
        classifier = fp.Classifier(
            flow=fp.fm_flow(Affine(single(SLOPE)), shape=(2,)),
            embedding=fp.Embedding(single(MATRIX)),
            readout=fp.NearestReadout(),
        )
        assert isinstance(classifier.objective, fp.RegressionObjective)

    @pytest.mark.parametrize("eta", [0, -0.1, np.nan, np.inf])
    def test_a_weight_that_is_not_positive(self, eta):
        with pytest.raises(ValueError, match="`eta` is"):
            fp.ELBOObjective(eta=eta)

    @pytest.mark.parametrize("noise", [-0.1, np.nan, np.inf])
    def test_a_path_noise_that_is_no_standard_deviation(self, noise):
        with pytest.raises(ValueError, match="`path_noise` is"):
            fp.FlowMatchingObjective(path_noise=noise)

    def test_a_path_noise_on_a_path_that_is_not_straight(self):
        with pytest.raises(ValueError, match=r"`path_noise` of the objective is 0.1, .* a VPPath"):
            affine(fp.ct_flow, fp.FlowMatchingObjective(path_noise=0.1))
