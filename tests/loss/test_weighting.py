"""Weights against finite differences and quadrature, times against their distributions, the schedule's own loss."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._loss.schedule_loss import schedule_loss


EMBEDDINGS = np.array([[1.0, 0.5], [-0.3, 2.0], [0.2, -1.0]])

PATHS = {
    "CondOT": lambda: fp.CondOTPath(),
    "linear": lambda: fp.VPPath(fp.LinearNoiseSchedule()),
    "cosine": lambda: fp.VPPath(fp.CosineNoiseSchedule()),
    "sigmoid": lambda: fp.VPPath(fp.SigmoidNoiseSchedule(9.0)),
    "cauchy": lambda: fp.VPPath(fp.CauchyNoiseSchedule(0, 0.5)),
    "trigonometric": fp.trigonometric_path,
    "polynomial": lambda: fp.polynomial_path(2),
    "exploding": lambda: fp.variance_exploding_path(0.01, 50),
}
# Those whose SNR is finite at both ends of [0, 1].
BOUNDED = ["linear", "cosine", "sigmoid", "exploding"]
PREDICTIONS = {
    "target": fp.TargetPrediction(),
    "noise": fp.NoisePrediction(),
    "velocity": fp.VelocityPrediction(),
    "preconditioned": fp.PreconditionedPrediction(data_std=0.7),
    "categorical": fp.CategoricalPrediction(),
}
TIMES = np.array([0.05, 0.3, 0.5, 0.8, 0.95])


def at(times, function):
    """A function of one time, applied to many times; compiled once."""
    return np.asarray(jax.jit(jax.vmap(function))(jnp.asarray(times)))


def snr(path, t):
    return jnp.exp(path.gamma(t))


def difference(function, t, step=1e-5):
    """A central difference: an error of step^2 and of 1e-16 / step, both 1e-10."""
    return (function(t + step) - function(t - step)) / (2 * step)


@pytest.mark.parametrize("name", PATHS)
class TestWeights:
    def test_elbo_of_the_target_is_half_the_snrs_slope(self, name, x64):
        path = PATHS[name]()
        weight = at(TIMES, lambda t: fp.ELBOWeighting().weight(path, fp.TargetPrediction(), t))
        wanted = at(TIMES, lambda t: difference(lambda s: snr(path, s), t) / 2)
        np.testing.assert_allclose(weight, wanted, rtol=1e-6)

    def test_elbo_of_the_noise_is_half_the_log_snrs_slope(self, name, x64):
        path = PATHS[name]()
        weight = at(TIMES, lambda t: fp.ELBOWeighting().weight(path, fp.NoisePrediction(), t))
        wanted = at(TIMES, lambda t: difference(path.gamma, t) / 2)
        np.testing.assert_allclose(weight, wanted, rtol=1e-6)

    @pytest.mark.parametrize("limit", [0.5, 10])
    def test_min_snr(self, name, limit, x64):
        path, weighting = PATHS[name](), fp.MinSNRWeighting(limit)
        ratio = at(TIMES, lambda t: jnp.square(path.alpha(t) / path.sigma(t)))
        wanted = np.minimum(ratio, limit)
        assert 0 < np.sum(wanted == limit) < len(TIMES)
        of_target = at(TIMES, lambda t: weighting.weight(path, fp.TargetPrediction(), t))
        of_noise = at(TIMES, lambda t: weighting.weight(path, fp.NoisePrediction(), t))
        np.testing.assert_allclose(of_target, wanted, rtol=1e-10)
        np.testing.assert_allclose(of_noise, wanted / ratio, rtol=1e-10)

    def test_uniform(self, name):
        path = PATHS[name]()
        weight = at(TIMES, lambda t: fp.UniformWeighting().weight(path, fp.NoisePrediction(), t))
        np.testing.assert_array_equal(weight, np.ones(len(TIMES)))


ALL_WEIGHTINGS = {
    "uniform": fp.UniformWeighting(),
    "elbo": fp.ELBOWeighting(),
    "normalised": fp.NormalisedELBOWeighting(),
    "batch": fp.BatchNormalisedELBOWeighting(),
    "step": fp.StepELBOWeighting(20),
    "min-snr": fp.MinSNRWeighting(),
}


def of_target(name, path, span):
    """Each weight of the target's error, by its definition and finite differences, at one time."""
    start, end = span
    slope = lambda t: difference(lambda s: snr(path, s), t, 1e-6)  # noqa: E731
    rise = snr(path, end) - snr(path, start)
    return {
        "elbo": lambda t: slope(t) / 2,
        "normalised": lambda t: slope(t) * (end - start) / rise,
        "step": lambda t: 10 * (snr(path, jnp.minimum(t + (end - start) / 20, end)) - snr(path, t)),
        "min-snr": lambda t: jnp.minimum(snr(path, t), 5.0),
    }[name]


def flow_of(path, prediction, weighting):
    return fp.Flow(lambda t, z, x: z, path, prediction, shape=(2,), weighting=weighting)


# Where a path ends without noise and the prediction's span with it, a weighting that needs a finite SNR is refused.
ENDLESS = {(p, q) for p in ("CondOT", "trigonometric", "polynomial") for q in ("velocity", "preconditioned", "noise")}


@pytest.mark.parametrize("weighting", ALL_WEIGHTINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PATHS)
class TestEveryWeightOnEveryPath:
    """Each weight is finite and right at every time of the span, or the flow raises an error when it is made."""

    @staticmethod
    def is_refused(name, prediction, weighting):
        return weighting in ("normalised", "step") and (name, prediction) in ENDLESS

    def test_is_finite_over_the_span_or_refused(self, name, prediction, weighting):
        """In single precision, both ends included, one time or many."""
        path, prediction_, weighting_ = PATHS[name](), PREDICTIONS[prediction], ALL_WEIGHTINGS[weighting]
        if self.is_refused(name, prediction, weighting):
            with pytest.raises(ValueError, match=f"`weighting` is {type(weighting_).__name__}, which needs a finite"):
                flow_of(path, prediction_, weighting_)
            return
        flow = flow_of(path, prediction_, weighting_)
        start, end = flow.span
        times = np.concatenate([np.linspace(start, end, 33), [np.nextafter(np.float32(end), np.float32(0))]])
        weights = np.asarray(jax.jit(flow.weight)(jnp.asarray(times, jnp.float32)))
        assert np.all(np.isfinite(weights))
        assert np.all(weights >= 0)
        assert np.max(weights) > 0
        for t in (start, end):
            assert np.isfinite(flow.weight(t))

    def test_is_that_of_finite_differences(self, name, prediction, weighting, x64):
        if weighting in ("uniform", "batch") or self.is_refused(name, prediction, weighting):
            return
        path, prediction = PATHS[name](), PREDICTIONS[prediction]
        flow = flow_of(path, prediction, ALL_WEIGHTINGS[weighting])
        start, end = flow.span
        times = start + (end - start) * TIMES
        wanted = at(times, lambda t: of_target(weighting, path, flow.span)(t) / prediction.scale(path, t))
        # The differences: h^2 of truncation, relative to times that are 0.01 from an end, and rounding.
        np.testing.assert_allclose(at(times, flow.weight), wanted, rtol=2e-6)


STRAIGHT = {
    "target": lambda t: t / (1 - t) ** 3,
    "noise": lambda t: 1 / (t * (1 - t)),
    "velocity": lambda t: t / (1 - t),
    "preconditioned": lambda t: 0.49 * t / ((1 - t) * (0.49 * t**2 + (1 - t) ** 2)),
}


@pytest.mark.parametrize("prediction", STRAIGHT)
def test_the_bound_on_the_straight_path_is_the_closed_form(prediction):
    """In single precision, up to the ends of the span."""
    flow = flow_of(fp.CondOTPath(), PREDICTIONS[prediction], fp.ELBOWeighting())
    end = flow.span[1] if flow.span[1] < 1 else 1 - 2.0**-24
    times = np.asarray([flow.span[0], 0.1, 0.5, 0.9, 0.99, end], np.float32)
    np.testing.assert_allclose(jax.jit(flow.weight)(times), STRAIGHT[prediction](times.astype(float)), rtol=2e-5)


@pytest.mark.parametrize("weighting", [fp.ELBOWeighting(), fp.BatchNormalisedELBOWeighting(), fp.MinSNRWeighting()])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_loss_of_the_bound_on_the_straight_path_is_finite(weighting, dtype, key):
    """In half precision a time just below 1 rounds to 1."""
    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), weighting=weighting)
    loss, gradient = jax.value_and_grad(lambda z1: flow.loss(z1, key=key))(jnp.ones((512, 2), dtype))
    assert np.isfinite(loss)
    assert np.all(np.isfinite(gradient))
    assert loss > 0
    for t in (0.0, 1.0):
        assert np.isfinite(flow.weight(jnp.asarray(t, dtype)))


def test_a_shorter_span_makes_the_snr_finite():
    for weighting in (fp.NormalisedELBOWeighting(), fp.StepELBOWeighting(5)):
        prediction = fp.EarlyStopPrediction(fp.VelocityPrediction(), 0.9)
        weights = flow_of(fp.CondOTPath(), prediction, weighting).weight(jnp.linspace(0, 0.9, 9))
        assert np.all(np.isfinite(weights))


class NeedsSNR(fp.AbstractWeighting):
    """A weighting of a user, which sets `needs_finite_snr`."""

    needs_finite_snr = True

    def weight(self, path, prediction, t):
        return jnp.ones_like(path.alpha(t))


def test_a_users_weighting_may_need_a_finite_snr():
    with pytest.raises(ValueError, match="`weighting` is NeedsSNR"):
        flow_of(fp.CondOTPath(), fp.VelocityPrediction(), NeedsSNR())
    flow_of(fp.VPPath(fp.LinearNoiseSchedule()), fp.VelocityPrediction(), NeedsSNR())


def test_a_wrapped_target_keeps_its_weighting():
    """The units of the errors decide, not the class of the prediction; also if it is traced."""
    wrapped = fp.EarlyStopPrediction(fp.TargetPrediction())
    for prediction, elbo in [
        (fp.TargetPrediction(), True),
        (fp.CategoricalPrediction(), True),
        (wrapped, True),
        (fp.EarlyStopPrediction(wrapped, 0.9), True),
        (fp.NoisePrediction(), False),
        (fp.VelocityPrediction(), False),
        (fp.EarlyStopPrediction(fp.PreconditionedPrediction(0.7)), False),
    ]:
        seen = [fp.ct_flow(lambda t, z, x: z, shape=(2,), prediction=prediction).weighting]

        def traced(key, prediction=prediction, seen=seen):
            schedule = fp.LearnableNoiseSchedule((4,), key=key)
            flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), prediction=prediction, schedule=schedule)
            seen.append(flow.weighting)
            return flow

        eqx.filter_vmap(traced)(jax.random.split(jax.random.key(0), 2))
        assert [type(w) for w in seen] == [fp.ELBOWeighting if elbo else fp.UniformWeighting] * 2


WEIGHTINGS = (fp.UniformWeighting(), fp.ELBOWeighting(), fp.StepELBOWeighting(20), fp.MinSNRWeighting())


@pytest.mark.parametrize("name", PATHS)
def test_a_batch_of_times_has_the_weights_of_each(name, x64):
    path = PATHS[name]()

    def weights(t):
        return jnp.stack([w.weight(path, p, t) for w in WEIGHTINGS for p in PREDICTIONS.values()])

    together = jax.jit(weights)(jnp.asarray(TIMES))
    assert together.shape == (len(WEIGHTINGS) * len(PREDICTIONS), len(TIMES))
    np.testing.assert_allclose(together.T, at(TIMES, weights), rtol=1e-12)


@pytest.mark.parametrize("name", BOUNDED)
class TestSteps:
    @pytest.mark.parametrize("num_steps", [1, 2, 7])
    def test_their_mean_is_the_rise_of_the_snr(self, name, num_steps, x64):
        """The terms of the discrete bound add up to `(SNR(1) - SNR(0)) / 2` for an error of 1."""
        path, weighting = PATHS[name](), fp.StepELBOWeighting(num_steps)
        starts = np.arange(num_steps) / num_steps
        weight = at(starts, lambda t: weighting.weight(path, fp.TargetPrediction(), t))
        start, end = at([0.0, 1.0], lambda t: snr(path, t))
        assert np.mean(weight) == pytest.approx((end - start) / 2, rel=1e-10)
        assert np.all(weight > 0)

    def test_many_tend_to_the_continuous_bound(self, name, x64):
        path = PATHS[name]()
        bound = at(TIMES, lambda t: fp.ELBOWeighting().weight(path, fp.NoisePrediction(), t))
        gaps = []
        for num_steps in (1000, 10_000):
            weighting = fp.StepELBOWeighting(num_steps)
            weight = at(TIMES, lambda t, w=weighting: w.weight(path, fp.NoisePrediction(), t))
            gaps.append(weight / bound - 1)
        # The slope at the start of a step is its mean but for a first order in its length (and a second: 11.3 of 10).
        np.testing.assert_allclose(gaps[0] / gaps[1], np.full(len(TIMES), 10.0), rtol=0.2)
        assert np.max(np.abs(gaps[1])) < 0.01


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("prediction", [fp.TargetPrediction(), fp.NoisePrediction()])
def test_the_bound_over_its_mean_in_the_batch(name, prediction, x64):
    path, weighting = PATHS[name](), fp.BatchNormalisedELBOWeighting()
    weight = np.asarray(jax.jit(lambda t: weighting.weight(path, prediction, t))(jnp.asarray(TIMES)))
    bound = at(TIMES, lambda t: fp.ELBOWeighting().weight(path, prediction, t))
    assert np.mean(weight) == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(weight / weight[0], bound / bound[0], rtol=1e-10)
    np.testing.assert_allclose(at(TIMES, lambda t: weighting.weight(path, prediction, t)), np.ones(5), rtol=1e-14)


@pytest.mark.parametrize("path_name", PATHS)
@pytest.mark.parametrize("prediction_name", PREDICTIONS)
class TestUnits:
    """For any output, the error in its own units is `scale` times the error of the corresponding target."""

    @staticmethod
    def case(path_name, prediction_name):
        draw = np.random.default_rng(5)
        z0, z1 = jnp.asarray(draw.standard_normal((2, 2)))
        prediction = PREDICTIONS[prediction_name]
        condition = (None, jnp.asarray(EMBEDDINGS)) if prediction_name == "categorical" else None
        output = jnp.asarray(draw.standard_normal(prediction.interface((2,), condition)[1]))
        return PATHS[path_name](), prediction, z0, z1, output, condition

    def test_errors_agree(self, path_name, prediction_name, x64):
        path, prediction, z0, z1, output, condition = self.case(path_name, prediction_name)
        plain, weighting = fp.TargetPrediction(), fp.ELBOWeighting()

        def both(t):
            target = prediction.estimate(path, t, path.interpolate(t, z0, z1), output, condition).target
            wanted = plain.error(path, t, z0, z1, target, None)
            error = prediction.error(path, t, z0, z1, output, condition)
            own = jnp.stack([error / prediction.scale(path, t), weighting.weight(path, prediction, t) * error])
            return jnp.stack([own, jnp.stack([wanted, weighting.weight(path, plain, t) * wanted])])

        errors = at(TIMES, both)
        # Between the kinds errors are divided by sigma or alpha, 0.05 at least, twice.
        np.testing.assert_allclose(errors[:, 0], errors[:, 1], rtol=1e-9)
        assert np.min(errors) > 1e-6


@pytest.mark.parametrize("name", BOUNDED)
def test_the_normalised_bound_has_mean_one(name, x64):
    path = PATHS[name]()
    places, weights = np.polynomial.legendre.leggauss(200)
    times = (places + 1) / 2
    weight = at(times, lambda t: fp.NormalisedELBOWeighting().weight(path, fp.TargetPrediction(), t))
    assert float(np.sum(weights / 2 * weight)) == pytest.approx(1.0, abs=1e-10)
    # And it is the bound's weight up to that factor.
    bound = at(times, lambda t: fp.ELBOWeighting().weight(path, fp.TargetPrediction(), t))
    start, end = at([0.0, 1.0], lambda t: snr(path, t))
    np.testing.assert_allclose(weight / bound, np.full(200, 2 / (end - start)), rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: fp.MinSNRWeighting(0), "limit"),
        (lambda: fp.StepELBOWeighting(0), "num_steps"),
        (lambda: fp.LogitNormalTimeSampling(std=0.0), "std"),
        (lambda: fp.PowerTimeSampling(-1.0), "exponent"),
        (lambda: fp.MinSNRWeighting(np.nan), "limit"),
        (lambda: fp.LogitNormalTimeSampling(np.nan), "mean"),
        (lambda: fp.LogitNormalTimeSampling(0.0, np.nan), "std"),
        (lambda: fp.PowerTimeSampling(np.inf), "exponent"),
        (lambda: fp.PreconditionedPrediction(np.nan), "data_std"),
        (lambda: fp.EarlyStopPrediction(fp.TargetPrediction(), np.nan), "end"),
    ],
)
def test_numbers_not_positive_or_not_finite_are_refused(make, name):
    with pytest.raises(ValueError, match=f"`{name}` is"):
        make()


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def logit(t):
    return np.log(t) - np.log1p(-t)


# Name -> sampling, its distribution function, its mean (None where it has no closed form).
SAMPLINGS = {
    "uniform": (fp.UniformTimeSampling(), lambda t: t, 0.5),
    "stratified": (fp.StratifiedTimeSampling(), lambda t: t, 0.5),
    "logit-normal": (fp.LogitNormalTimeSampling(), lambda t: normal_cdf(logit(t)), 0.5),
    "logit-normal, shifted": (fp.LogitNormalTimeSampling(-1, 0.5), lambda t: normal_cdf((logit(t) + 1) / 0.5), None),
    "power, 1": (fp.PowerTimeSampling(), lambda t: t, 0.5),
    "power, 3": (fp.PowerTimeSampling(3), lambda t: t**3, 0.75),
    "power, 0.5": (fp.PowerTimeSampling(0.5), lambda t: t**0.5, 1 / 3),
}
STRATIFIED = {name: case for name, case in SAMPLINGS.items() if name != "uniform"}
NUM = 4000
# Dvoretzky, Kiefer and Wolfowitz: independent draws stay within this of their distribution, but for a chance of 1e-6.
DKW = math.sqrt(math.log(2e6) / (2 * NUM))


draw = eqx.filter_jit(lambda sampling, num_times, key: sampling.sample(num_times, key=key))


def steps_of(times, distribution):
    """The distance of the empirical distribution function from the true one."""
    levels = distribution(np.sort(np.asarray(times, np.float64)))
    return np.max(np.abs(levels - (np.arange(len(levels)) + 0.5) / len(levels)))


@pytest.mark.parametrize(("sampling", "distribution", "mean"), SAMPLINGS.values(), ids=SAMPLINGS)
class TestTimes:
    def test_lie_in_the_unit_interval(self, sampling, distribution, mean, key):
        times = draw(sampling, NUM, key)
        assert times.shape == (NUM,)
        assert float(jnp.min(times)) >= 0.0
        assert float(jnp.max(times)) <= 1.0

    def test_are_distributed_as_stated(self, sampling, distribution, mean, key):
        times = draw(sampling, NUM, key)
        stratified = not isinstance(sampling, fp.UniformTimeSampling)
        # One in each stratum leaves a step of 1 / NUM (and single precision); independent draws more.
        assert steps_of(times, distribution) < (1.5 / NUM if stratified else DKW)
        if mean is not None:
            # A deviation of at most 0.5 a draw for independent ones, 4 standard errors of them.
            tolerance = 2 / NUM if stratified else 4 * 0.5 / math.sqrt(NUM)
            assert float(np.mean(np.asarray(times, np.float64))) == pytest.approx(mean, abs=tolerance)

    def test_have_that_distribution_at_each_place_of_the_batch(self, sampling, distribution, mean, key):
        """Otherwise the first example of each batch would have early times only."""
        batches = jax.jit(jax.vmap(lambda k: draw(sampling, 3, k)))(jax.random.split(key, NUM))
        for place in range(3):
            assert steps_of(batches[:, place], distribution) < DKW

    def test_follow_the_key(self, sampling, distribution, mean):
        one, same, other = (draw(sampling, 64, jax.random.key(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.all(np.asarray(one) != np.asarray(other))


EXTREME = [
    fp.PowerTimeSampling(1e6),
    fp.PowerTimeSampling(3),
    fp.LogitNormalTimeSampling(30.0),
    fp.GridTimeSampling(3),
    fp.GridTimeSampling(4097),
    fp.StratifiedTimeSampling(),
    fp.UniformTimeSampling(),
]


@pytest.mark.parametrize("sampling", EXTREME)
def test_no_time_is_one(sampling, key):
    """Also for a sampling with times close to 1: 1 - 2^-24 is the largest number below 1."""
    times = np.asarray(draw(sampling, 1 << 20, key))
    assert times.dtype == np.float32
    assert 0 <= times.min() <= times.max() <= 1 - 2.0**-24


@pytest.mark.parametrize(("sampling", "distribution", "mean"), STRATIFIED.values(), ids=STRATIFIED)
@pytest.mark.parametrize("num_times", [1, 64])
def test_one_time_falls_in_each_stratum(sampling, distribution, mean, num_times, key):
    levels = distribution(np.asarray(draw(sampling, num_times, key), np.float64))
    assert sorted(np.floor(levels * num_times).astype(int)) == list(range(num_times))


class BentSchedule(fp.AbstractNoiseSchedule):
    """`gamma = -3 + 7 (t + bend t (1 - t))`: rises for `|bend| < 1`, between fixed ends."""

    bend: jax.Array

    def gamma(self, t):
        t = jnp.asarray(t)
        return -3 + 7 * (t + self.bend * t * (1 - t))


def integrand(gamma):
    """A bound's integrand, any positive function of gamma."""
    return jnp.exp(-jnp.square(gamma - 0.5) / 8) * (1.2 + jnp.sin(gamma))


GRID = (np.arange(5_000) + 0.5) / 5_000


@eqx.filter_jit
def log_second_moment(schedule):
    """`log int h^2 / q d gamma` with `q = 1 / gamma'`, by the midpoint rule over t."""
    t = jnp.asarray(GRID)
    gamma, slope = jax.vmap(jax.value_and_grad(schedule.gamma))(t)
    return jnp.log(jnp.mean(jnp.square(integrand(gamma) * slope)))


@eqx.filter_jit
@eqx.filter_value_and_grad
def loss_and_gradient(schedule):
    t = jnp.asarray(GRID)
    gamma, slope = jax.vmap(jax.value_and_grad(schedule.gamma))(t)
    return schedule_loss(fp.VPPath(schedule), t, jax.lax.stop_gradient(integrand(gamma) * slope))


def learnable():
    """The library's schedule in double precision, with given weights: its random ones take seconds to compile."""
    make = functools.partial(fp.LearnableNoiseSchedule, (4, 4), (-3.0, 4.0))
    shapes = eqx.filter_eval_shape(make, key=jax.random.key(0))
    weights = np.random.default_rng(1)
    schedule = jax.tree.map(lambda leaf: jnp.asarray(weights.standard_normal(leaf.shape)), shapes)
    return with_ends(schedule, -3.0, math.log(7.0))


def with_ends(schedule, *values):
    """The schedule with these values of `start` and `log_rise`."""
    return eqx.tree_at(lambda s: jax.tree.leaves(s.end_points), schedule, [jnp.asarray(value) for value in values])


class TestScheduleLoss:
    def test_needs_uniform_times(self, key):
        """The loss is derived for uniform times. A power of 1 counts as another sampling."""
        schedule = fp.LearnableNoiseSchedule((4,), key=key)
        for sampling in (None, fp.UniformTimeSampling(), fp.StratifiedTimeSampling()):
            fp.ct_flow(lambda t, z, x: z, shape=(2,), schedule=schedule, time_sampling=sampling)
        for sampling in (fp.PowerTimeSampling(2), fp.LogitNormalTimeSampling(), fp.GridTimeSampling(3)):
            with pytest.raises(ValueError, match=f"`time_sampling` is {type(sampling).__name__}, and `path` has"):
                fp.ct_flow(lambda t, z, x: z, shape=(2,), schedule=schedule, time_sampling=sampling)
            fp.ct_flow(lambda t, z, x: z, shape=(2,), time_sampling=sampling)

    @pytest.mark.parametrize("bend", [-0.6, 0.0, 0.5])
    def test_one_parameter(self, bend, x64):
        value, gradient = loss_and_gradient(BentSchedule(jnp.asarray(bend)))
        wanted = difference(lambda b: float(log_second_moment(BentSchedule(jnp.asarray(b)))), bend)
        assert float(value) == 0.0
        # The midpoint rule on 5,000 cells is wrong by 1e-8 or so, the difference by 1e-10.
        assert float(gradient.bend) == pytest.approx(wanted, rel=1e-6)
        assert abs(wanted) > 1e-2

    def test_the_librarys_schedule(self, x64):
        schedule = learnable()
        value, gradient = loss_and_gradient(schedule)
        assert float(value) == 0.0
        draw = np.random.default_rng(2)
        for _ in range(3):
            direction = jax.tree.map(lambda leaf: jnp.asarray(draw.standard_normal(leaf.shape)), schedule)
            direction = with_ends(direction, 0.0, 0.0)
            wanted = difference(
                lambda step, d=direction: float(
                    log_second_moment(jax.tree.map(lambda leaf, change: leaf + step * change, schedule, d))
                ),
                0.0,
            )
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
            assert float(sum(jnp.sum(g * d) for g, d in pairs)) == pytest.approx(wanted, rel=1e-5)
            assert abs(wanted) > 1e-3

    def test_descent_flattens_the_estimate(self, x64):
        """Gradient descent on this loss makes the bound's estimate, r = h / q, almost constant in t."""
        schedule = BentSchedule(jnp.asarray(0.9))
        seen = [float(log_second_moment(schedule))]
        for _ in range(5):
            _, gradient = loss_and_gradient(schedule)
            schedule = BentSchedule(schedule.bend - 0.2 * gradient.bend)
            seen.append(float(log_second_moment(schedule)))
        assert all(later < earlier for earlier, later in itertools.pairwise(seen))

    def test_the_scale_of_the_bound_does_not_matter(self, x64):
        """The gradient is that of a logarithm."""
        path, t = fp.VPPath(BentSchedule(jnp.asarray(0.3))), jnp.asarray(GRID[::100])
        gradient = eqx.filter_jit(eqx.filter_grad(lambda p, c: schedule_loss(p, t, c * (1 + t))))
        gradients = [gradient(path, jnp.asarray(c)).schedule.bend for c in (1.0, 1e3)]
        assert float(gradients[0]) == pytest.approx(float(gradients[1]), rel=1e-12)
        assert abs(float(gradients[0])) > 1e-3
