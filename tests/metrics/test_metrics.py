"""Tests of the metrics against closed forms, brute force, SciPy and NumPy."""

import itertools
import math
import sys

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression

import flowprop as fp
from flowprop import metrics, plot


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bures(mean, first, second):
    """The 2-Wasserstein distance between two gaussians whose means differ by `mean`."""
    root = sqrtm(first)
    return np.sqrt(mean @ mean + np.trace(first + second - 2 * sqrtm(root @ second @ root)).real)


class TestWasserstein:
    def test_translation_has_the_distance_of_the_shift(self):
        a = normal(0, 50, 2, 1)
        shift = np.array([[3.0], [4.0]], np.float32)
        moved = jnp.asarray(a)[::-1] + shift[None]
        # The shifted points are rounded to single precision.
        assert metrics.wasserstein(a, moved) == pytest.approx(5.0, rel=1e-6)

    def test_equals_the_minimum_over_all_permutations(self):
        a, b = normal(1, 2, 5, 3, 2)
        costs = [np.mean(np.sum((a - b[list(order)]) ** 2, axis=(1, 2))) for order in itertools.permutations(range(5))]
        assert metrics.wasserstein(a, b) == pytest.approx(math.sqrt(min(costs)), rel=1e-6)

    def test_unequal_sizes_equal_repeated_points(self):
        """Repeating the points of both samples to twelve points each does not change their distributions."""
        a, b = normal(5, 4, 2), 1 + normal(6, 6, 2)
        exact = metrics.wasserstein(np.repeat(a, 3, axis=0), np.repeat(b, 2, axis=0))
        assert metrics.wasserstein(a, b) == pytest.approx(exact, rel=1e-9)

    def test_equals_the_optimal_assignment_of_many_points(self):
        a, b = normal(7, 2, 300, 3)
        costs = cdist(a, b, "sqeuclidean")
        exact = math.sqrt(costs[linear_sum_assignment(costs)].mean())
        assert metrics.wasserstein(a, b) == pytest.approx(exact, rel=1e-6)

    def test_linear_optimal_map_has_the_distance_of_gaussians(self):
        """A symmetric positive definite map is optimal (Brenier). Its cost depends only on the sample's moments."""
        a = normal(2, 100, 2).astype(float)
        matrix = np.array([[1.5, 0.4], [0.4, 0.7]])
        b = a @ matrix + [1.0, -2.0]
        exact = bures((b - a).mean(0), np.cov(a.T, bias=True), np.cov(b.T, bias=True))
        assert metrics.wasserstein(a, b[::-1]) == pytest.approx(exact, rel=1e-9)

    def test_large_samples_of_gaussians_have_the_closed_form(self):
        root, mean = np.array([[1.0, 0.0], [0.8, 0.5]]), np.array([2.0, 0.0])
        a, b = normal(3, 2, 600, 2).astype(float)
        exact = bures(mean, np.eye(2), root @ root.T)
        # The difference of the sample means has a standard deviation of 0.06.
        assert metrics.wasserstein(a, b @ root.T + mean) == pytest.approx(exact, abs=0.15)

    def test_errors_name_wrong_samples(self):
        a = normal(4, 5, 2)
        with pytest.raises(ValueError, match="`a` has 0 points where at least 1"):
            metrics.wasserstein(a[:0], a[:0])
        with pytest.raises(ValueError, match="`b` has 1 points that are not finite"):
            metrics.wasserstein(a, np.where(np.arange(5)[:, None] == 3, np.nan, a))
        with pytest.raises(TypeError, match="b"):
            metrics.wasserstein(a, a[:, :1])

    def test_error_without_pot_names_the_extra_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ot", None)
        with pytest.raises(ImportError, match=r"flowprop\[metrics\]"):
            metrics.wasserstein(normal(0, 5, 2), normal(1, 5, 2))


class TestSlicedWasserstein:
    @pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4)])
    def test_in_one_dimension_compares_quantiles(self, key, n, m):
        a, b = normal(0, n), 2 * normal(1, m) + 1
        exact = np.sqrt(np.mean((np.repeat(np.sort(a), m) - np.repeat(np.sort(b), n)) ** 2))
        assert metrics.sliced_wasserstein(a, b, num_projections=3, key=key) == pytest.approx(exact, rel=1e-5)

    def test_translation_is_divided_by_the_root_of_the_dimension(self, key):
        a = normal(2, 8, 3, 1)
        value = metrics.sliced_wasserstein(a, a + 2, num_projections=4096, key=key)
        # cos^2 has mean 1/3 and variance 4/45 over the sphere, so the standard error is 0.7 %.
        assert value == pytest.approx(math.sqrt(12 / 3), rel=0.03)

    def test_errors_name_wrong_arguments(self, key):
        with pytest.raises(ValueError, match="`num_projections` is 0"):
            metrics.sliced_wasserstein(normal(0, 3), normal(0, 3), num_projections=0, key=key)
        with pytest.raises(ValueError, match="`b` has 0 points"):
            metrics.sliced_wasserstein(normal(0, 3), normal(0, 0), key=key)


class TestMMD:
    def test_equals_the_double_sum(self):
        a, b = normal(0, 6, 2), normal(1, 7, 2) + 0.5

        def kernel(x, y):
            return np.mean([np.exp(-np.sum((x - y) ** 2) / (2 * h**2)) for h in (0.5, 2)])

        exact = (
            sum(kernel(x, y) for x, y in itertools.permutations(a, 2)) / 30
            + sum(kernel(x, y) for x, y in itertools.permutations(b, 2)) / 42
            - 2 * sum(kernel(x, y) for x in a for y in b) / 42
        )
        assert metrics.mmd(a, b, bandwidths=[0.5, 2]) == pytest.approx(exact, abs=1e-6)

    def test_default_bandwidth_is_the_median_distance(self):
        a, b = 3 * normal(2, 6, 2), normal(3, 7, 2)
        median = float(np.median(pdist(np.concatenate([a, b]))))
        assert metrics.mmd(a, b) == pytest.approx(float(metrics.mmd(a, b, bandwidths=[median])), abs=1e-6)

    def test_is_unbiased(self):
        """The expectation for two gaussians in the plane, one shifted by `s`, has a closed form."""
        h, repeats = 1.5, 400
        estimate = jax.jit(jax.vmap(lambda a, b: metrics.mmd(a, b, bandwidths=[h])))
        a, b = normal(4, repeats, 5, 2), normal(5, repeats, 6, 2)
        for s in (0.0, 1.0):
            values = np.asarray(estimate(a, b + np.array([s, 0], np.float32)))
            exact = 2 * h**2 / (h**2 + 2) * (1 - math.exp(-(s**2) / (2 * (h**2 + 2))))
            assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(repeats)

    def test_errors_name_wrong_arguments(self):
        a = normal(0, 6, 2)
        with pytest.raises(ValueError, match="`a` has 1 points where at least 2"):
            metrics.mmd(a[:1], a)
        with pytest.raises(ValueError, match=r"`bandwidths` is \[1.0, 0.0\]"):
            metrics.mmd(a, a, bandwidths=[1.0, 0.0])
        with pytest.raises(eqx.EquinoxRuntimeError, match="give `bandwidths`"):
            metrics.mmd(np.zeros_like(a), np.zeros_like(a)).block_until_ready()


class TestClassifierTwoSampleTest:
    @pytest.mark.parametrize(
        "classifier",
        [LogisticRegression(), *(pytest.param(name, marks=pytest.mark.slow) for name in (None, "sbibm"))],
        ids=["given", "default", "sbibm"],
    )
    def test_accuracy_for_equal_distributions_is_chance(self, key, classifier):
        accuracy, p_value = metrics.classifier_two_sample_test(*normal(0, 2, 60, 2), classifier=classifier, key=key)
        # The standard deviation of the accuracy of 120 guesses is 0.046.
        assert accuracy == pytest.approx(0.5, abs=0.14)
        right = round(120 * accuracy)
        assert p_value == pytest.approx(sum(math.comb(120, k) for k in range(right, 121)) / 2**120)

    @pytest.mark.slow
    def test_default_nears_the_exact_accuracy_of_crescents(self, key):
        """They differ in the deviation of their radius alone."""

        def crescents(random, deviation):
            angle, radius = random.uniform(-np.pi / 2, np.pi / 2, 2000), random.normal(0.1, deviation, 2000)
            points = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
            return points * random.choice([-1, 1], (2000, 1))

        random = np.random.default_rng(0)
        test = metrics.classifier_two_sample_test(crescents(random, 0.01), crescents(random, 0.025), key=key)
        # The best possible is 0.7075; the standard error of 4,000 points is 0.007.
        assert 0.68 < test.accuracy < 0.73

    def test_distinguishes_different_shapes(self, key):
        """A disc and a ring around it cannot be separated by a linear classifier."""
        a = normal(1, 60, 2)
        test = metrics.classifier_two_sample_test(a, a + 4 * a / np.linalg.norm(a, axis=1, keepdims=True), key=key)
        assert test.accuracy > 0.95
        assert test.p_value < 1e-9

    def test_errors_name_wrong_arguments(self, key, monkeypatch):
        a = normal(3, 6, 2)
        with pytest.raises(ValueError, match="`a` has 6 points and `b` 5"):
            metrics.classifier_two_sample_test(a, a[:5], key=key)
        with pytest.raises(ValueError, match="`a` has 4 points where at least 5"):
            metrics.classifier_two_sample_test(a[:4], a[:4], key=key)
        with pytest.raises(ValueError, match="`classifier` is 'network': give 'sbibm'"):
            metrics.classifier_two_sample_test(a, a, classifier="network", key=key)
        monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
        with pytest.raises(ImportError, match=r"flowprop\[metrics\]"):
            metrics.classifier_two_sample_test(a, a, key=key)


class Linear(eqx.Module):
    """The velocity `A z + x`."""

    matrix: jax.Array

    def __call__(self, t, z, x):
        return self.matrix @ z + x


def linear_flow(matrix):
    return fp.fm_flow(Linear(jnp.asarray(matrix, float)), shape=(2,))


class TestPathEnergy:
    z0 = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    still = np.zeros((2, 2), np.float32)

    def test_translation_is_optimal(self):
        shift = np.array([[3.0, 4.0]] * 2, np.float32)
        flow = linear_flow(self.still)
        np.testing.assert_allclose(metrics.path_energy(flow, self.z0, shift), [25, 25], rtol=1e-6)
        assert metrics.normalised_path_energy(flow, self.z0, (self.z0 + shift)[::-1], shift) < 1e-6

    def test_quarter_turn_has_the_energy_of_its_arc(self):
        """Each point moves along an arc of length `pi/2`. The squared length of the chord is 2."""
        flow = linear_flow(np.pi / 2 * np.array([[0, -1], [1, 0]]))
        value = metrics.normalised_path_energy(flow, self.z0, self.z0[:, ::-1], self.still)
        assert value == pytest.approx(np.pi**2 / 8 - 1, abs=1e-4)

    def test_stretch_has_the_energy_of_its_changing_speed(self):
        """The trajectory `z_0 exp(k t)` is straight, but its speed is not constant."""
        k = 1.5
        value = metrics.normalised_path_energy(
            linear_flow(k * np.eye(2)), self.z0, self.z0 * np.float32(math.exp(k)), self.still
        )
        assert value == pytest.approx(k / 2 / math.tanh(k / 2) - 1, abs=1e-4)

    def test_data_are_mapped_to_path_coordinates(self):
        path = fp.VPPath(fp.SigmoidNoiseSchedule(4.0))
        flow = fp.Flow(Linear(jnp.zeros((2, 2))), path, fp.VelocityPrediction(), shape=(2,))
        shift, end = np.ones((2, 2), np.float32), flow.span[1]
        z1 = (self.z0 + shift) / float(path.alpha(end))  # alpha = 0.94
        euler = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.5)
        value = metrics.normalised_path_energy(flow, self.z0, z1, shift, integrator=euler)
        assert value == pytest.approx(1 - end, abs=1e-5)

    def test_errors_name_wrong_arguments(self):
        flow = linear_flow(self.still)
        with pytest.raises(ValueError, match=r"`z0` has shape \(2, 1\)"):
            metrics.path_energy(flow, self.z0[:, :1], self.still)
        with pytest.raises(ValueError, match="`batch_size` is 0"):
            metrics.path_energy(flow, self.z0, self.still, batch_size=0)
        with pytest.raises(TypeError, match="z1"):
            metrics.normalised_path_energy(flow, self.z0, self.z0[:1], self.still)
        with pytest.raises(ValueError, match="`z0` and `z1` are the same points"):
            metrics.normalised_path_energy(flow, self.z0, self.z0, self.still)


class TestCoverage:
    def test_ranks_equal_those_computed_by_hand(self):
        data = np.array([0.5, -3.0, 2.0, 1.0])
        own = np.array([-np.inf, 1.0, 0.0])
        expected = (np.array([1, 2, 0, 0.5]) + 0.5) / 4
        np.testing.assert_allclose(metrics.coverage(data, own), expected, rtol=1e-6)
        np.testing.assert_allclose(metrics.coverage(data, np.stack([own, own[::-1]] * 2)), expected, rtol=1e-6)

    @pytest.mark.parametrize("std", [1.0, 0.6])
    def test_ranks_of_a_gaussian_in_the_plane_have_the_closed_form(self, std):
        """The regions are discs. A disc of radius `r` has the level `1 - exp(-r^2 / (2 std^2))`."""
        squares, own = np.sum(normal(0, 800, 2) ** 2, axis=1), std**2 * np.sum(normal(1, 20_000, 2) ** 2, axis=1)
        ranks = metrics.coverage(-squares / (2 * std**2), -own / (2 * std**2))
        # Four standard errors of a fraction of 20,000 samples.
        np.testing.assert_allclose(ranks, 1 - np.exp(-squares / (2 * std**2)), atol=0.014)

        level, share, error = metrics.coverage_curve(ranks, np.linspace(0.05, 0.95, 19))
        exact = 1 - (1 - level) ** (std**2)
        np.testing.assert_array_less(np.abs(share - exact), 4 * np.sqrt(exact * (1 - exact) / 800) + 0.014)
        np.testing.assert_allclose(error, np.sqrt(level * (1 - level) / 800), rtol=1e-6)
        if std < 1:
            assert np.all(share < level - 2 * error)
        else:
            assert metrics.calibration_error(ranks) < 1.36 / math.sqrt(800)

    def test_calibration_error_is_the_kolmogorov_smirnov_statistic(self):
        ranks = np.random.default_rng(2).uniform(size=40) ** 1.5
        assert metrics.calibration_error(ranks) == pytest.approx(kstest(ranks, "uniform").statistic, rel=1e-9)

    def test_errors_name_wrong_arguments(self):
        ranks = np.array([0.1, 0.2])
        with pytest.raises(ValueError, match=r"`log_prob_of_samples` has shape \(2, 0\)"):
            metrics.coverage(ranks, np.zeros((2, 0)))
        with pytest.raises(ValueError, match="`log_prob_of_data` holds 1 NaN"):
            metrics.coverage(np.array([0.0, np.nan]), ranks)
        with pytest.raises(TypeError, match="log_prob_of_samples"):
            metrics.coverage(ranks, np.zeros((3, 5)))
        with pytest.raises(ValueError, match=r"`ranks` holds numbers from -0\.1 to 0\.0"):
            metrics.calibration_error(ranks - 0.2)
        with pytest.raises(ValueError, match="`levels` is empty"):
            metrics.coverage_curve(ranks, np.zeros(0))


class TestCoverageCurve:
    def test_draws_a_line_and_a_band_for_each_model(self):
        ranks = np.linspace(0.3, 0.9, 7)
        curves = {"FM": metrics.coverage_curve(ranks), "CT": np.array([[0.2, 0.4], [0.1, 0.5], [0.3, 0.1]])}
        ax = plot.coverage_curve(curves, title="two moons")
        _, *lines = ax.lines
        for line, (level, share, _) in zip(lines, curves.values(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), np.stack([level, share], axis=1))
        _, band = ax.collections
        corners = {tuple(corner) for corner in np.round(band.get_paths()[0].vertices, 6)}
        assert corners == {(0.2, -0.4), (0.4, 0.2), (0.2, 0.8), (0.4, 0.6)}
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["calibrated", "FM", "CT"]

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`curves` is empty"):
            plot.coverage_curve({})
        with pytest.raises(ValueError, match=r"`curves` has for 'FM' arrays of shapes \[\(3,\), \(2,\), \(3,\)\]"):
            plot.coverage_curve({"FM": [np.ones(3), np.ones(2), np.ones(3)]})


class TestValues:
    """Values that are not finite are counted and named in the error. All floating-point types are accepted."""

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_samples_that_are_not_finite_are_refused(self, bad, key):
        good = normal(0, 6, 2)
        wrong = np.where(np.arange(6)[:, None] == 2, bad, good).astype(np.float32)
        flow, one = linear_flow(np.eye(2)), "has 1 points that are not finite"
        calls = {
            "`b`": [
                lambda: metrics.mmd(good, jnp.asarray(wrong)),
                lambda: metrics.sliced_wasserstein(good, wrong, key=key),
                lambda: metrics.wasserstein(good, wrong),
                lambda: metrics.classifier_two_sample_test(good, wrong, key=key),
            ],
            "`z0`": [lambda: metrics.path_energy(flow, wrong)],
            "`z1`": [lambda: metrics.normalised_path_energy(flow, good, wrong)],
        }
        for name, functions in calls.items():
            for function in functions:
                with pytest.raises(ValueError, match=f"{name} {one}"):
                    function()
        with pytest.raises(ValueError, match="`bandwidths` is"):
            metrics.mmd(good, good, bandwidths=[bad])

    def test_log_densities_that_are_not_finite_are_refused(self):
        zeros, low = jnp.zeros(3), jnp.full(3, -jnp.inf)
        for log_target, log_prob, message in (
            (low, zeros, "`log_target` is -inf at every sample"),
            (zeros.at[0].set(jnp.nan), zeros, "`log_target` holds 1 numbers"),
            (zeros, low, "`log_prob` holds 3 numbers"),
        ):
            with pytest.raises(ValueError, match=message):
                fp.importance_weights(log_target, log_prob)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
    def test_all_floating_point_types_give_the_same_value(self, dtype, key):
        """Small integers have the same value in every type."""
        a, b = np.random.default_rng(0).integers(-4, 5, (2, 12, 2)).astype(np.float32)
        for metric in (
            metrics.mmd,
            metrics.wasserstein,
            lambda a, b: metrics.sliced_wasserstein(a, b, key=key),
        ):
            wanted = float(metric(a, b))
            assert float(metric(a.astype(dtype), jnp.asarray(b))) == pytest.approx(wanted, rel=1e-5)
            assert float(metric(a.astype(dtype), b.astype(dtype))) == pytest.approx(wanted, rel=1e-5)
