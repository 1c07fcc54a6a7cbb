"""Objects composed: every pair is right against a closed form, or refused with a remedy.

Here: types of numbers, transforms of units and early stops, each with every entry point. The other tables stand with
their parts: weights with paths and predictions (`test_weighting`), couplings with conditions (`test_coupling`), sources
with classifiers (`test_objective`), files with kinds of models (`test_model_kinds`), controllers with solves
(`test_solve`).
"""

import dataclasses
import functools
import math

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import all_but
from jaxtyping import Array

import flowprop as fp


RATE = 0.4


class Growth(eqx.Module):
    """`v = a z + x`, whose flow is `z_1 = e^a z_0 + x (e^a - 1) / a`; `a` is a parameter, of any precision."""

    rate: Array

    def __call__(self, t, z, x=None):
        return self.rate * z + (0 if x is None else x)


def flow(dtype=jnp.float32, **settings):
    network = Growth(jnp.asarray(RATE, dtype))
    return fp.fm_flow(network, shape=(2,), **settings)


def log_density(z, x=0.0):
    """The closed form, in nats."""
    z0 = (z - x * np.expm1(RATE) / RATE) * np.exp(-RATE)
    return -0.5 * np.sum(z0**2, axis=-1) - np.log(2 * np.pi) - 2 * RATE


POINTS = np.array([[0.5, -1.0], [1.5, 0.25], [-0.75, 2.0]])  # all exact in half precision
CONDITIONS = np.array([[0.25, 0.5], [-0.5, 1.0], [0.0, -1.0]])
KEY = jax.random.key(0)


# --- Types of numbers ------------------------------------------------------------------------------------------------

# Name -> is double precision on, the network's type, what makes an array.
TYPES = {
    "half": (False, jnp.float32, lambda a: np.asarray(a, np.float16)),
    "half, in JAX": (False, jnp.float32, lambda a: jnp.asarray(a, jnp.float16)),
    "bfloat16": (False, jnp.float32, lambda a: jnp.asarray(a, jnp.bfloat16)),
    "bfloat16 throughout": (False, jnp.bfloat16, lambda a: jnp.asarray(a, jnp.bfloat16)),
    "half throughout": (False, jnp.float16, lambda a: np.asarray(a, np.float16)),
    "single": (False, jnp.float32, lambda a: np.asarray(a, np.float32)),
    "double, by NumPy alone": (False, jnp.float32, np.asarray),
    "big-endian": (False, jnp.float32, lambda a: np.asarray(a, ">f4")),
    "single data, double network": (True, jnp.float64, lambda a: np.asarray(a, np.float32)),
    "half data, double network": (True, jnp.float64, lambda a: np.asarray(a, np.float16)),
    "double data, single network": (True, jnp.float32, np.asarray),
    "double throughout": (True, jnp.float64, np.asarray),
}


def _log_prob(flow, z, x):
    return fp.log_prob(flow, z, x)


def _estimate(flow, z, x):
    return fp.estimate_log_prob(flow, z, x).value


def _maximum_likelihood(flow, z, x):
    return -fp.MaximumLikelihood(flow, divergence=fp.ExactDivergence()).loss(z, x, key=KEY)


def _class_log_prob(flow, z, x):
    return fp.class_log_prob(flow, z, x)[:, 1]


def _distribution(flow, z, x):
    return fp.as_distribution(flow, x[0]).log_prob(z)


#: What computes log-likelihoods, and the closed form of what comes out.
LIKELIHOODS = {
    "log_prob": (_log_prob, lambda: log_density(POINTS, CONDITIONS)),
    "estimate_log_prob": (_estimate, lambda: log_density(POINTS, CONDITIONS)),
    "MaximumLikelihood": (_maximum_likelihood, lambda: log_density(POINTS, CONDITIONS).mean()),
    "class_log_prob": (_class_log_prob, lambda: log_density(POINTS, CONDITIONS[1])),
    "as_distribution": (_distribution, lambda: log_density(POINTS, CONDITIONS[0])),
}


#: Every type with one entry point, and every entry point with one type of each kind.
PAIRS = [(name, entry) for name in TYPES for entry in LIKELIHOODS]
QUICK = [pair for pair in PAIRS if pair[1] == "log_prob" or pair[0] in ("bfloat16 throughout", "double throughout")]


@pytest.mark.parametrize(("name", "entry"), all_but(QUICK, PAIRS))
def test_likelihoods_take_every_type(name, entry):
    double, network, make = TYPES[name]
    compute, closed_form = LIKELIHOODS[entry]
    with jax.enable_x64(double):
        rate = float(jnp.asarray(RATE, network))  # what is left of it in half precision
        value = np.asarray(compute(flow(network), make(POINTS), make(CONDITIONS)), float)
        wanted = closed_form()
    # A rate that is off by 1e-3 moves these densities by a few hundredths.
    np.testing.assert_allclose(value, wanted, atol=1e-3 + 20 * abs(rate - RATE))


def _solve(flow, z, x):
    return jax.vmap(lambda z, x: fp.solve(flow, z, x).ys[0])(jnp.asarray(z), jnp.asarray(x))


def _end(z, x):
    return np.exp(RATE) * z + x * np.expm1(RATE) / RATE


#: Lower and mixed precision, and another order of bytes.
KINDS = ["bfloat16 throughout", "big-endian", "double data, single network"]


@pytest.mark.parametrize("name", all_but(KINDS, TYPES))
def test_solves_and_samples_take_every_type(name):
    double, network, make = TYPES[name]
    with jax.enable_x64(double):
        slack = 1e-4 + 20 * abs(float(jnp.asarray(RATE, network)) - RATE)
        if not name.startswith("big"):  # JAX itself takes no array of foreign byte order
            np.testing.assert_allclose(
                np.asarray(_solve(flow(network), make(POINTS), make(CONDITIONS)), float),
                _end(POINTS, CONDITIONS),
                atol=slack,
            )
        for integrator in (None, fp.SDEIntegrator(4), fp.AncestralIntegrator(4)):
            samples = fp.sample(flow(network), 3, make(CONDITIONS), key=KEY, integrator=integrator)
            assert samples.dtype in (jnp.float32, jnp.float64)
            assert np.all(np.isfinite(samples))
        samples, log_probs = fp.sample_and_log_prob(flow(network), 3, make(CONDITIONS), key=KEY)
        np.testing.assert_allclose(
            np.asarray(log_probs, float), log_density(np.asarray(samples, float), CONDITIONS), atol=1e-3 + slack
        )
        z0, z1 = fp.reflow_pairs(flow(network), 3, make(CONDITIONS), key=KEY)
        np.testing.assert_allclose(np.asarray(z1, float), _end(np.asarray(z0, float), CONDITIONS), atol=slack)


@pytest.mark.parametrize("name", TYPES)
def test_training_takes_every_type(name):
    double, network, make = TYPES[name]
    with jax.enable_x64(double):
        model, history = fp.fit(
            flow(network),
            (make(POINTS), make(CONDITIONS)),
            optax.sgd(1e-2),
            steps=3,
            batch_size=2,
            key=KEY,
            ema=0.9,
            progress=False,
        )
        assert np.all(np.isfinite(history["loss"]))
        assert model.network.rate.dtype == network
        assert float(model.network.rate) != float(jnp.asarray(RATE, network))


# --- Transforms ------------------------------------------------------------------------------------------------------

STANDARDISE = fp.Standardise(np.array([3.0, -20.0]), np.array([0.5, 10.0]))


class FlowjaxLike:
    """A bijection with flowjax's methods: `y = 2 x + 1`."""

    def transform_and_log_det(self, x, condition=None):
        return 2 * x + 1, jnp.log(2.0) * x.size

    def inverse_and_log_det(self, y, condition=None):
        return (y - 1) / 2, -jnp.log(2.0) * y.size


# Name -> transform, points in the data's units within its support.
TRANSFORMS = {
    "Standardise": (STANDARDISE, np.array([[3.0, -20.0], [2.5, -5.0]])),
    "Whiten": (
        fp.Whiten.fit(np.random.default_rng(0).normal(size=(50, 2)) @ np.array([[2.0, 1.0], [0.0, 0.1]])),
        np.array([[0.5, 0.2], [-1.0, -0.4]]),
    ),
    "Bounded": (fp.Bounded(-1.0, np.array([2.0, 4.0])), np.array([[0.5, 0.5], [1.9, -0.9]])),
    "Positive": (fp.Positive(), np.array([[0.5, 2.0], [3.0, 0.1]])),
    "Chain": (
        fp.Chain(fp.Positive(), fp.Standardise(np.zeros(2), np.array([0.5, 2.0]))),
        np.array([[0.5, 2.0], [3.0, 0.1]]),
    ),
    "OnColumns": (fp.OnColumns((1,), fp.Positive()), np.array([[-0.5, 2.0], [3.0, 0.1]])),
    "flowjax's methods": (FlowjaxLike(), np.array([[0.5, 2.0], [3.0, -0.1]])),
    "Circular": (fp.Circular(2 * np.pi), np.array([[0.5, 3.0], [-3.1, 1.0]])),
    "Dequantise": (
        fp.Chain(fp.Dequantise(), fp.Standardise(np.full(2, 2.0), np.full(2, 1.5))),
        np.array([[0, 2], [3, 1]]),
    ),
}
BIJECTIVE = [name for name in TRANSFORMS if name not in ("Circular", "Dequantise")]


def transformed(name):
    return flow(transform=TRANSFORMS[name][0])


def in_data_units(name, points):
    """The closed form: the flow's own density at the transformed points, and the Jacobian's determinant by hand."""
    transform = transformed(name).transform
    with jax.enable_x64(True):
        points = jnp.asarray(points, float)
        z = jax.vmap(transform.forward)(points)
        volume = jnp.linalg.slogdet(jax.vmap(jax.jacfwd(transform.forward))(points))[1]
        return log_density(np.asarray(z)) + np.asarray(volume)


#: Every transform in the likelihoods and the loss. Everything else only calls the same methods of a transform: one that
#: is linear, one with a bounded support, and one that is not of this library are enough.
each_transform = pytest.mark.parametrize("name", BIJECTIVE)
each_kind = pytest.mark.parametrize("name", all_but(["Standardise", "Bounded", "flowjax's methods"], BIJECTIVE))


class TestTransforms:
    @each_transform
    def test_every_likelihood_is_in_the_datas_units(self, name):
        points = TRANSFORMS[name][1].astype(np.float32)
        wanted = in_data_units(name, points)
        np.testing.assert_allclose(fp.log_prob(transformed(name), points), wanted, atol=2e-3)
        np.testing.assert_allclose(fp.estimate_log_prob(transformed(name), points).value, wanted, atol=2e-3)
        exact = fp.MaximumLikelihood(transformed(name), divergence=fp.ExactDivergence())
        np.testing.assert_allclose(-exact.loss(points, key=KEY), wanted.mean(), atol=2e-3)

    @each_kind
    def test_samples_are_in_the_datas_units(self, name):
        plain, transform = fp.sample(flow(), 5, key=KEY), transformed(name).transform
        samples = fp.sample(transformed(name), 5, key=KEY)
        np.testing.assert_allclose(samples, jax.vmap(transform.inverse)(plain), rtol=1e-5, atol=1e-5)
        for integrator in (fp.SDEIntegrator(5), fp.AncestralIntegrator(5, stochasticity=0.0)):
            plain = fp.sample(flow(), 5, key=KEY, integrator=integrator)
            samples = fp.sample(transformed(name), 5, key=KEY, integrator=integrator)
            np.testing.assert_allclose(samples, jax.vmap(transform.inverse)(plain), rtol=1e-5, atol=1e-5)

    @each_kind
    def test_samples_come_with_their_density(self, name):
        samples, log_probs = fp.sample_and_log_prob(transformed(name), 5, key=KEY)
        np.testing.assert_allclose(log_probs, in_data_units(name, samples), atol=5e-3)

    @each_transform
    def test_training_sees_the_coordinates(self, name):
        """The loss of data in their units is that of the transformed data without a transform."""
        points = TRANSFORMS[name][1].astype(np.float32)
        z = jax.vmap(transformed(name).transform.forward)(points)
        np.testing.assert_allclose(transformed(name).loss(points, key=KEY), flow().loss(z, key=KEY), rtol=1e-4)

    @each_kind
    def test_flows_made_of_it_keep_the_units(self, name):
        points = TRANSFORMS[name][1].astype(np.float32)
        wanted = in_data_units(name, points)
        base = transformed(name)
        made = {
            "given": fp.given(base, jnp.zeros(2)),
            "guided": fp.guide(base, jnp.zeros(2), 1.0),
            "along another path": fp.change_path(base, fp.VPPath(fp.SigmoidNoiseSchedule(30.0))),
        }
        conditions = {"guided": np.zeros((2, 2), np.float32)}
        for what, other in made.items():
            value = fp.log_prob(other, points, conditions.get(what))
            # At a log-SNR of 15 the path begins and ends a thousandth away from noise and data.
            np.testing.assert_allclose(value, wanted, atol=0.02 if "path" in what else 2e-3, err_msg=what)

    @each_kind
    def test_pairs_go_together(self, name):
        z0, data = fp.reflow_pairs(transformed(name), 4, key=KEY)
        wanted = jax.vmap(transformed(name).transform.inverse)(_end(z0, 0.0).astype(np.float32))
        np.testing.assert_allclose(data, wanted, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            fp.PairedFlow(transformed(name)).loss(z0, data, key=KEY),
            fp.PairedFlow(flow()).loss(z0, _end(z0, 0.0).astype(np.float32), key=KEY),
            rtol=2e-2,
        )


def test_a_regression_is_in_the_units_of_its_targets():
    """The mean of samples of `p(y | x)`, in closed form: the transform undone on the flow's mean."""
    regressor = fp.Regressor(flow=flow(transform=STANDARDISE))
    inputs = CONDITIONS.astype(np.float32)
    mean = np.asarray(regressor.predict(inputs, key=KEY, num_samples=512))
    wanted = np.array([3.0, -20.0]) + np.array([0.5, 10.0]) * _end(0.0, CONDITIONS)
    # 512 samples: the standard error of a mean is 1.5 / 512**0.5 = 0.066 in units of the transform.
    np.testing.assert_allclose((mean - wanted) / np.array([0.5, 10.0]), np.zeros((3, 2)), atol=0.25)


def test_a_circle_has_equal_ends_and_mass_one():
    around = flow(transform=fp.OnColumns((0,), fp.Circular(2 * np.pi)))
    line = np.linspace(-np.pi, np.pi, 201)[:, None]
    grid = np.concatenate([line, np.zeros_like(line)], axis=1).astype(np.float32)
    log_p = np.asarray(fp.log_prob(around, grid))
    assert log_p[0] == pytest.approx(log_p[-1], abs=1e-4)
    mass = np.trapezoid(np.exp(log_p), line[:, 0])
    # The three lifts hold what N(0, e^2a) has within 1.5 periods, in units of the lifted uniform's deviation.
    within = math.erf(1.5 / math.sqrt(1 / 3 - 2 / np.pi**2) * np.exp(-RATE) / math.sqrt(2))
    # What is left is the density of the other coordinate, N(0, e^2a), at 0.
    assert mass == pytest.approx(within * np.exp(-RATE) / np.sqrt(2 * np.pi), rel=1e-3)


def test_levels_have_probabilities_that_sum_to_one():
    levels_about_eight = fp.Chain(fp.Dequantise(num_draws=64), fp.Standardise(8.0, 1.0))
    one = fp.fm_flow(Growth(jnp.asarray(RATE)), shape=(1,), transform=levels_about_eight)
    levels = np.arange(16)[:, None]
    log_p = fp.log_prob(one, levels, key=KEY)
    # The flow is N(8, e^2a) of x + u: all but 1e-7 lies in [0, 16). 64 draws a level: one per cent.
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=0.02)
    samples = fp.sample(one, 50, key=KEY)
    np.testing.assert_array_equal(samples, np.round(samples))


REFUSED = {
    "integers without a transform": (lambda: fp.log_prob(flow(), np.zeros((2, 2), int)), "`z1`.*astype"),
    "integers in training": (lambda: flow().loss(np.zeros((2, 2), int), key=KEY), "`z1`.*Dequantise"),
    "levels without a key": (lambda: fp.log_prob(transformed("Dequantise"), np.zeros((2, 2), int)), "`key`"),
    "a transform of another shape": (
        lambda: fp.fm_flow(Growth(jnp.ones(())), shape=(3,), transform=STANDARDISE),
        "shape",
    ),
    "an end before the span": (lambda: STOPPING["noise from 0.01 on"](end=0.005), "`end` is 0.005.*0.01"),
    "a bound that needs an end": (
        lambda: dataclasses.replace(flow(), weighting=fp.NormalisedELBOWeighting()),
        "`weighting`.*`end=",
    ),
    "a class as a transform": (lambda: flow(transform=fp.Standardise), "`transform`"),
    "an array as a transform": (lambda: flow(transform=np.ones(2)), "`transform`"),
    "a classifier of transformed labels": (
        lambda: fp.Classifier(flow=transformed("Positive"), embedding=fp.one_hot_embedding(2)),
        "transform",
    ),
    "data outside of the support": (
        lambda: fp.fit(
            transformed("Positive"),
            (np.array([[1.0, 2.0], [1.0, -1.0]]),),
            optax.sgd(0.1),
            steps=1,
            batch_size=1,
            key=KEY,
        ),
        "column 1.*rows",
    ),
}


@pytest.mark.parametrize(("do", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_with_a_remedy(do, words):
    with pytest.raises((ValueError, TypeError), match=words):
        do()


# --- Early stops -----------------------------------------------------------------------------------------------------

END = 0.8
STOPPING = {
    "fm": flow,
    "ct": lambda **end: fp.ct_flow(Growth(jnp.asarray(RATE)), shape=(2,), **end),
    "df": lambda **end: fp.df_flow(Growth(jnp.asarray(RATE)), shape=(2,), **end),
    "noise from 0.01 on": lambda **end: fp.Flow(
        Growth(jnp.asarray(RATE)), fp.CondOTPath(), fp.NoisePrediction(), shape=(2,), **end
    ),
    "a bound over its mean": lambda **end: fp.ct_flow(
        Growth(jnp.asarray(RATE)), shape=(2,), weighting=fp.NormalisedELBOWeighting(), **end
    ),
    "steps of the bound": lambda **end: fp.ct_flow(
        Growth(jnp.asarray(RATE)), shape=(2,), weighting=fp.StepELBOWeighting(5), **end
    ),
}


def early(flow, end=END):
    """The same stop as a prediction."""
    return dataclasses.replace(flow, prediction=fp.EarlyStopPrediction(flow.prediction, end))


@pytest.mark.parametrize("name", STOPPING)
class TestEarlyStops:
    def test_the_ways_to_stop_are_one(self, name):
        """Made with an end, replaced later, or as a prediction: spans, weights and losses are equal."""
        made, plain, points = STOPPING[name](end=END), STOPPING[name](), POINTS.astype(np.float32)
        wanted, times = early(plain), jnp.linspace(0.1, 0.7, 4)
        assert wanted.span == (plain.span[0], END)
        value = wanted.loss(points, key=KEY)
        assert value != plain.loss(points, key=KEY)
        for stopped in (made, dataclasses.replace(plain, end=END)):
            assert stopped.span == wanted.span
            assert stopped.loss(points, key=KEY) == value
            np.testing.assert_array_equal(stopped.weight(times), wanted.weight(times))

    def test_flows_made_of_it_stop_where_it_does(self, name):
        made = STOPPING[name](end=END)
        for other in (
            fp.given(made, jnp.zeros(2)),
            fp.guide(made, jnp.zeros(2), 2.0),
            fp.PairedFlow(made).flow,
            dataclasses.replace(made, time_sampling=fp.UniformTimeSampling()),
        ):
            assert other.span == made.span
        path = fp.VPPath(fp.CosineNoiseSchedule())
        changed = fp.change_path(made, path)
        gamma = made.path.gamma(jnp.asarray(END))
        assert changed.span[1] == pytest.approx(float(path.time_at(gamma, path.span)), abs=1e-6)
        assert changed.span == fp.change_path(early(STOPPING[name]()), path).span
        again = dataclasses.replace(changed, end=0.3)
        assert again.span == (changed.span[0], 0.3)

    def test_an_end_can_be_taken_away(self, name):
        plain = STOPPING[name]()
        assert dataclasses.replace(STOPPING[name](end=END), end=None).span == plain.span
        # The end of a span is never later than that of the prediction.
        assert dataclasses.replace(plain, end=0.999).span == (plain.span[0], min(plain.span[1], 0.999))


def test_solves_that_stop_early():
    """A sample of `v = a z` ends at the target `z + (1 - end) v` of its last point."""
    few, points = fp.ODEIntegrator(dfx.Heun(), dt0=0.1), POINTS.astype(np.float32)
    made, wanted = flow(end=END), early(flow())
    samples = fp.sample(made, 3, key=KEY, integrator=few)
    np.testing.assert_array_equal(samples, fp.sample(wanted, 3, key=KEY, integrator=few))
    ratio = np.exp(-RATE * (1 - END)) * (1 + RATE * (1 - END))
    np.testing.assert_allclose(samples, ratio * fp.sample(flow(), 3, key=KEY, integrator=few), rtol=1e-3)
    log_p = fp.log_prob(made, points, integrator=few)
    np.testing.assert_array_equal(log_p, fp.log_prob(wanted, points, integrator=few))


def test_a_classifier_takes_a_flow_that_stops_early():
    network = fp.nn.MLP((3,), 2, width=4, depth=1, key=KEY)
    labels = fp.Flow(network, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
    made, wanted = (
        fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3))
        for flow in (dataclasses.replace(labels, end=END), early(labels))
    )
    inputs = CONDITIONS.astype(np.float32)
    assert type(made.objective) is type(wanted.objective) is fp.CrossEntropyObjective
    assert made.loss(inputs, [0, 2, 1], key=KEY) == wanted.loss(inputs, [0, 2, 1], key=KEY)
    np.testing.assert_array_equal(made.predict_proba(inputs, key=KEY), wanted.predict_proba(inputs, key=KEY))


# --- Scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [[1.0, 1e-3], [1.0, 1e3], [100.0, 100.0]])
def test_fit_warns_of_data_far_from_unit_scale(points):
    data = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32) * np.asarray(points, np.float32)
    with pytest.warns(UserWarning, match="far from the unit scale.*`transform=fp.Standardise.fit"):
        fp.fit(flow(), (data,), optax.sgd(0.0), steps=1, batch_size=10, key=KEY, progress=False)
    fp.fit(
        flow(transform=fp.Standardise.fit(data)),
        (data,),
        optax.sgd(0.0),
        steps=1,
        batch_size=10,
        key=KEY,
        progress=False,
    )


# --- Rows ------------------------------------------------------------------------------------------------------------

BAD = np.concatenate([POINTS, [[np.nan, 0.0], [0.0, np.inf]]]).astype(np.float32)
NO_CONDITION = np.concatenate([CONDITIONS, [[np.nan, 0.0]]]).astype(np.float32)


def test_a_bad_row_is_nan_in_its_row():
    good = fp.log_prob(flow(), POINTS.astype(np.float32))
    for values in (fp.log_prob(flow(), BAD), fp.estimate_log_prob(flow(), BAD).value):
        np.testing.assert_allclose(values[:3], good, rtol=1e-6)
        assert np.all(np.isnan(values[3:]))
    samples = fp.sample(flow(), 4, NO_CONDITION, key=KEY)
    np.testing.assert_allclose(samples[:3], fp.sample(flow(), 3, CONDITIONS.astype(np.float32), key=KEY), rtol=1e-6)
    assert np.all(np.isnan(samples[3]))


class Stiff(eqx.Module):
    def __call__(self, t, z, x=None):
        return jnp.where(jnp.abs(z) > 50, 1e6 * jnp.sin(1e6 * z), 0.0 * z)


def test_one_failing_row():
    stiff, points = fp.fm_flow(Stiff(), shape=(2,)), np.array([[0.0, 0.0], [1.0, 1.0], [100.0, 100.0]], np.float32)
    few = fp.ODEIntegrator(max_steps=64)
    values = fp.log_prob(stiff, points, integrator=few, throw=False)
    np.testing.assert_array_equal(np.isnan(values), [False, False, True])
    with pytest.raises(RuntimeError, match=r"1 of 3 rows \(2\) failed.*`throw=False`"):
        fp.log_prob(stiff, points, integrator=few)
    with pytest.raises(RuntimeError, match="some rows failed"):
        jax.block_until_ready(eqx.filter_jit(functools.partial(fp.log_prob, stiff, integrator=few))(points))
    mapped = jax.jit(lambda z: fp.log_prob(stiff, z, integrator=few, throw=False))(points)
    np.testing.assert_array_equal(np.isnan(mapped), [False, False, True])


def test_gradients_pass_by_a_bad_row():
    gradient = jax.grad(lambda z: jnp.nansum(fp.log_prob(flow(), z)))(BAD)
    np.testing.assert_allclose(gradient[:3], -POINTS * np.exp(-2 * RATE), rtol=1e-3)
    assert np.all(np.isfinite(gradient))


# --- Precision of products -------------------------------------------------------------------------------------------


def test_likelihoods_ask_for_the_highest_precision():
    """On a GPU products of single precision may be done in TF32, whose errors of 1e-3 no tolerance of 1e-5 survives."""
    learned = fp.fm_flow(fp.nn.MLP(2, width=4, depth=1, key=KEY), shape=2)
    points = jnp.zeros((3, 2))
    for function in (
        lambda z: fp.log_prob(learned, z),
        lambda z: fp.estimate_log_prob(learned, z).value,
        lambda z: fp.sample_and_log_prob(learned, 3, key=KEY)[1],
    ):
        text = str(jax.make_jaxpr(function)(points))
        products = [line for line in text.splitlines() if "dot_general" in line or "precision=" in line]
        assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in text or "Precision.HIGHEST" in text, products


def test_the_table_of_transforms_is_whole():
    public = {
        name
        for name in dir(fp)
        if isinstance(getattr(fp, name), type) and issubclass(getattr(fp, name), fp.AbstractTransform)
    }
    concrete = {name for name in public if not name.startswith("Abstract")} - {"IdentityTransform"}
    assert concrete - {"Dequantise"} <= TRANSFORMS.keys()


def test_replacing_keeps_the_transform():
    other = dataclasses.replace(transformed("Positive"), time_sampling=fp.UniformTimeSampling())
    assert isinstance(other.transform, fp.Positive)
    assert fp.ODEIntegrator(dfx.Heun(), dt0=0.1).max_steps == 4096
