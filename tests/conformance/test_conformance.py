"""Tests of the conformance checks: their reference values, this library, and one library with each known defect."""

import dataclasses
import functools
import importlib.metadata
import inspect
from pathlib import Path

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import miniature
import numpy as np
import pytest

import flowprop as fp
from flowprop import conformance


KEY = jax.random.key(0)
each_pair = pytest.mark.parametrize("pair", exact.PAIRS)


# --- The references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["fm", "ct learnable", "condot noise"])
def test_pushforward_of_a_gaussian_has_the_closed_form(pair):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS[pair]())
    known = conformance.Exact(exact.GAUSSIAN, flow.path, flow.span)
    mean, covariance = exact.pushforward_moments(flow, exact.GAUSSIAN)
    for found, wanted in zip(known.moments(), (mean, covariance), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    z = np.random.default_rng(0).standard_normal((128, 2))
    np.testing.assert_allclose(known.log_prob(z), exact.gaussian_log_prob(z, mean, covariance), atol=1e-5)
    # The map between two gaussians keeps the Mahalanobis distance from the mean.
    noise_std = np.hypot(*(float(f(flow.span[0])) for f in (flow.path.alpha, flow.path.sigma)))
    end = known.transport(noise_std * z) - mean
    distance = np.sum(end * np.linalg.solve(covariance, end.T).T, axis=1)
    np.testing.assert_allclose(distance, np.sum(z**2, axis=1), rtol=1e-4)


def test_pushforward_of_a_mixture_is_the_mixture_if_the_path_starts_at_pure_noise(key):
    known = conformance.Exact(conformance.MIXTURE, fp.CondOTPath())
    for found, wanted in zip(known.moments(), (known.data.mean, known.data.covariance), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    z = known.data.sample(128, key=key)
    np.testing.assert_allclose(known.log_prob(z), jax.vmap(known.data.log_prob)(z), atol=1e-4)


def test_velocity_and_score_agree_with_the_density(key, x64):
    """Checks `d log p / dt = -div v - v . score`, and that the score is the gradient of `log p`."""
    path = fp.VPPath(fp.CosineNoiseSchedule())
    known = conformance.Exact(conformance.MIXTURE, path)

    @jax.jit
    @jax.vmap
    def both_sides(t, z):
        def log_prob(t, z):
            return known.data.log_prob(z, path.alpha(t), path.sigma(t))

        change, gradient = jax.grad(log_prob, argnums=(0, 1))(t, z)
        velocity, jacobian = known.velocity(t, z), jax.jacfwd(known.velocity, argnums=1)(t, z)
        fields = (known.target(t, z), known.noise(t, z), velocity, known.score(t, z))
        return (change, gradient), (-jnp.trace(jacobian) - velocity @ fields[3], fields[3]), fields

    times = np.array([0.2, 0.6, 0.9])
    points = known.draw(times, key=key)
    left, right, fields = both_sides(times, points)
    for found, wanted in zip((*left, *fields), (*right, *known.truth(times, points)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_draws_have_the_moments_of_the_mixture(key):
    data = conformance.MIXTURE
    samples = np.asarray(data.sample(20_000, key=key))
    np.testing.assert_allclose(samples.mean(axis=0), data.mean, atol=4 * 0.92 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(samples.T), data.covariance, atol=0.04)  # four standard errors of 0.85 sqrt(2/n)


# --- This library ---------------------------------------------------------------------------------------------------


def over_both(pair):
    """The flows of one path and prediction with the exact network, for both data distributions, with their data."""
    return [(exact.exact_flow(data, *exact.PAIRS[pair]()), data) for data in (exact.GAUSSIAN, exact.MIXTURE)]


@each_pair
def test_every_pair_passes_the_field_checks(pair, key):
    for flow, data in over_both(pair):
        conformance.assert_conforms(conformance.field_checks(flow, data), key=key)


@pytest.mark.slow  # test_solve.py tests a few pairs in every run
@each_pair
def test_every_pair_passes_the_solve_checks(pair, key):
    for flow, data in over_both(pair):
        conformance.assert_conforms(conformance.solve_checks(flow, data), key=key)


@eqx.filter_jit
def solve_by(integrator, flow, z0):
    return jax.vmap(lambda z: fp.solve(flow, z, integrator=integrator).ys[0])(z0)


def integrator_checks(solver, order, num_steps):
    """The checks of one solver, with flow matching."""
    flow, data = over_both("fm")[1]
    known = conformance.Exact(data, flow.path)

    def adaptive(z0, tolerance):
        return solve_by(fp.ODEIntegrator(solver, dfx.PIDController(rtol=tolerance, atol=tolerance)), flow, z0)

    def fixed(z0, num_steps):
        return solve_by(fp.ODEIntegrator(solver, dt0=1 / num_steps), flow, z0)

    def evaluations(counted):
        # The first step is so large that it is rejected. Some solvers then evaluate its first stage again.
        integrator = fp.ODEIntegrator(solver, dfx.PIDController(rtol=1e-6, atol=1e-6), dt0=1.0)
        counting = eqx.tree_at(lambda flow: flow.network, flow, counted(flow.network))
        return fp.function_evaluations(fp.solve(counting, jnp.array([0.3, -0.8]), integrator=integrator), integrator)

    return [
        conformance.ToleranceIsHeeded(known, adaptive),
        conformance.SolverHasOrder(known, fixed, order=order, num_steps=num_steps),
        conformance.EvaluationsAreCounted(evaluations),
    ]


#: For each solver, its order, and a number of steps whose error is well above the rounding errors of single precision.
SOLVERS = {dfx.Heun: (2, 32), dfx.Bosh3: (3, 16), dfx.Tsit5: (5, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_integrators_conform(solver, key):
    conformance.assert_conforms(integrator_checks(solver(), *SOLVERS[solver]), key=key)


@pytest.mark.slow
def test_the_reverse_sde_conforms(key):
    flow, data = over_both("fm")[1]

    def sample(num_samples, key):
        return fp.sample(flow, num_samples, key=key, integrator=fp.SDEIntegrator(100))

    known = conformance.Exact(data, flow.path)
    conformance.assert_conforms([conformance.SamplesHaveMoments(known, sample, slack=0.03)], key=key)


def test_random_probes_conform(key):
    flow, data = over_both("ct sigmoid")[1]
    known = conformance.Exact(data, flow.path)

    def log_prob(z1, key, num_steps=64):
        integrator = fp.ODEIntegrator(dfx.Heun(), dt0=1 / num_steps)
        return fp.log_prob(flow, z1, key=key, divergence=fp.HutchinsonDivergence(3), integrator=integrator)

    checks = [conformance.ProbesAreHeld(known, log_prob), conformance.ProbesAreAveraged(known, log_prob, slack=0.03)]
    conformance.assert_conforms(checks, key=key)


def test_the_classifier_conforms(key):
    def classifier(network=lambda network: network, encoder=lambda encoder: encoder):
        path = fp.CondOTPath()
        posterior = network(conformance.ClassPosterior(path))
        flow = fp.Flow(posterior, path, fp.CategoricalPrediction(), shape=(3,))
        return fp.Classifier(encoder=encoder(eqx.nn.Identity()), flow=flow, embedding=fp.one_hot_embedding(3))

    def evaluate(inputs, labels, key):
        return jnp.mean(classifier().predict(inputs, key=key) == labels)

    checks = [
        conformance.ClassesAreFound(lambda inputs, key: classifier().predict(inputs, key=key)),
        conformance.LabelsAreUnseen(evaluate),
        conformance.ReadoutIsBlind(lambda blinded, inputs, key: classifier(network=blinded).predict(inputs, key=key)),
        conformance.EncoderRunsOnce(lambda counted, inputs, key: classifier(encoder=counted).predict(inputs, key=key)),
    ]
    conformance.assert_conforms(checks, key=key)


@pytest.mark.slow
def test_ragged_batches_conform(key):
    def in_batches(traced, num_examples):
        blocks = [traced(conformance.ClassPosterior(fp.VPPath(fp.CosineNoiseSchedule())))] * 2
        inputs, _ = conformance.labelled_inputs(num_examples, key=key)
        fp.NoPropDT(blocks, embedding=fp.one_hot_embedding(3)).predict(inputs, key=key, batch_size=4)

    conformance.assert_conforms([conformance.RaggedBatchesShareAProgram(in_batches)], key=key)


def test_schedules_features_and_files_conform(key, tmp_path):
    learnable = exact.learnable()
    fp.save(tmp_path / "model", learnable)
    checks = [
        conformance.ScheduleRises(learnable.gamma),
        conformance.ScheduleMeetsItsEnds(learnable.gamma, ends=(-7.0, 6.0)),
        conformance.TimesAreToldApart(fp.nn.SinusoidalFeatures()),
        conformance.PicklesAreRefused(lambda path: fp.load(path, learnable), valid=(tmp_path / "model").read_bytes()),
        conformance.PicklesAreRefused(fp.data.read_idx),
        conformance.ImportsAreDeclared(Path(fp.__file__).parent, importlib.metadata.requires("flowprop")),
    ]
    conformance.assert_conforms(checks, key=key)


# --- Reports --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Measured(conformance.AbstractCheck):
    """A custom check that reports a given number."""

    number: float
    bounds: dict

    def measure(self, *, key):
        return self.report("the number", self.number, **self.bounds)


@dataclasses.dataclass(frozen=True)
class Raising(conformance.AbstractCheck):
    def measure(self, *, key):
        raise ZeroDivisionError("of a subject's own\nin two lines")


def test_report_passes_within_its_bounds_and_prints_them(key):
    cases = [
        (1.0, {"most": 2}, True, "<= 2"),
        (3.0, {"most": 2}, False, "<= 2"),
        (3.0, {"least": 2}, True, ">= 2"),
        (1.0, {"least": 2, "most": 3}, False, "2 to 3"),
        (7.0, {"least": 7, "most": 7}, True, "= 7"),
        (np.nan, {"most": 2}, False, "<= 2"),
    ]
    for number, bounds, passed, allowed in cases:
        (report,) = conformance.run([Measured(number, bounds)], key=key)
        assert (report.passed, report.allowed, report.claim) == (passed, allowed, "Measured")


def test_assertion_error_lists_failed_checks_only(key):
    checks = [Measured(1.0, {"most": 2}), Raising(), Measured(3.5, {"most": 2})]
    with pytest.raises(AssertionError) as caught:
        conformance.assert_conforms(checks, key=key)
    assert str(caught.value).splitlines() == [
        "2 checks failed:",
        "FAIL  Raising   nan  = 0   ZeroDivisionError: of a subject's own",
        "FAIL  Measured  3.5  <= 2  the number",
    ]
    conformance.assert_conforms(checks[:1], key=key)
    assert conformance.table([]) == ""


def test_each_check_gets_its_own_reproducible_key(key):
    known, seen = conformance.Exact(conformance.MIXTURE, fp.CondOTPath()), []

    def log_prob(z1):
        seen.append(np.asarray(z1))
        return known.log_prob(z1)

    checks = [conformance.LogProbIsExact(known, log_prob)] * 2
    assert conformance.run(checks, key=key) == conformance.run(checks, key=key)
    np.testing.assert_array_equal(seen[:2], seen[2:])
    assert not np.allclose(seen[0], seen[1])


def test_results_of_the_wrong_shape_are_refused(key):
    known = conformance.Exact(conformance.MIXTURE, fp.CondOTPath())
    column = conformance.LogProbIsExact(known, lambda z1: known.log_prob(z1)[:, None])
    uncounted = conformance.EvaluationsAreCounted(lambda counted: 7)
    reports = conformance.run([column, uncounted], key=key)
    assert [report.passed for report in reports] == [False, False]
    assert "`log_prob(z1)` has shape (128, 1) where (128,) is needed" in reports[0].what
    assert "never called `counted(network)`" in reports[1].what


def test_errors_of_a_mixture_name_the_wrong_argument():
    one = np.eye(2)[None]
    for arguments, message in [
        (([1.0], [0.0, 0.0], one), r"`means` has shape \(2,\)"),
        (([0.5, 0.5], [[0.0, 0.0]], one), r"`weights` has shape \(2,\) where \(1,\)"),
        (([1.0], [[0.0, 0.0]], one[0]), r"`covariances` has shape \(2, 2\) where \(1, 2, 2\)"),
        (([0.5], [[0.0, 0.0]], one), r"`weights` are \[0\.5\]: divide them by their sum"),
        (([1.0], [[0.0, 0.0]], -one), "`covariances`"),
    ]:
        with pytest.raises(ValueError, match=message):
            conformance.Mixture(*arguments)
    np.testing.assert_allclose(conformance.gaussian([1, 2], 3 * one[0]).covariance, 3 * one[0])


def test_denoiser_refuses_an_unknown_prediction():
    flow = conformance.exact_flow(conformance.MIXTURE, fp.CondOTPath(), fp.CategoricalPrediction())
    with pytest.raises(TypeError, match="`prediction` is CategoricalPrediction"):
        flow.network(0.5, jnp.zeros(2))


# --- A small library, without and with each known defect of other libraries -----------------------------------------


@functools.cache
def measured(check, *decisions):
    """Run a check once for each set of functions, because a defect changes only some of them."""
    return conformance.run([check(*decisions)], key=KEY)[0]


def verdicts(library):
    return [
        measured(check, *(library[name] for name in inspect.signature(check).parameters)) for check in miniature.ADAPTER
    ]


def broken_claims(library):
    return [report.claim for report in verdicts(library) if not report.passed]


#: These tests run in one process, so that they share the cached results of the correct library.
together = pytest.mark.xdist_group("miniature")


@together
def test_correct_library_passes_all_checks():
    assert broken_claims(miniature.SOUND) == [], conformance.table(verdicts(miniature.SOUND))


@together
@pytest.mark.parametrize("defect", miniature.DEFECTS)
def test_each_defect_fails_its_check_and_no_other(defect):
    change, claim = miniature.DEFECTS[defect]
    library = miniature.SOUND | change
    assert broken_claims(library) == [claim], conformance.table(verdicts(library))


def test_every_check_has_a_defect_that_it_detects():
    checks = {
        name
        for name, value in vars(conformance).items()
        if inspect.isclass(value) and issubclass(value, conformance.AbstractCheck) and not inspect.isabstract(value)
    }
    assert {claim for _, claim in miniature.DEFECTS.values()} == checks
