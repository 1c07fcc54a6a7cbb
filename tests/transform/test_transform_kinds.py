"""The properties of each kind of transform: precision, edges, distributions of draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, norm

import flowprop as fp
from flowprop._transform import log_sum_over_preimages


RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(500, 3))
LOWER = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.3, 3.0]])
CORRELATED = NORMAL @ LOWER.T + np.array([1.0, -20.0, 300.0])
TURN = 2 * np.pi
DTYPES = [np.float32, np.float64, jnp.bfloat16]


class TestStandardise:
    def test_a_small_spread_far_from_zero(self):
        """In float32 the neighbours of 1000 are 6.1e-5 away: all remaining digits are used."""
        points = np.random.default_rng(1).normal(1e3, 1e-4, size=(4000, 2)).astype(np.float32)
        transform = fp.Standardise.fit(points)
        z = np.asarray(jax.jit(lambda points: transform.forward(points))(jnp.asarray(points)), np.float64)
        exact = points.astype(np.float64)
        np.testing.assert_allclose(z, (exact - exact.mean(axis=0)) / exact.std(axis=0), atol=1e-5)
        np.testing.assert_array_equal(transform.inverse(z.astype(np.float32)), points)

    @pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
    def test_any_scale(self, scale):
        points = (CORRELATED * scale).astype(np.float32)
        z = np.asarray(fp.Standardise.fit(points).forward(points), np.float64)
        np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-5)
        np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-5)

    @pytest.mark.parametrize(
        "points",
        [
            CORRELATED.tolist(),
            CORRELATED.astype(">f8"),
            jnp.asarray(CORRELATED),
            np.asfortranarray(CORRELATED),
            np.round(CORRELATED).astype(np.int16),
            np.round(CORRELATED - CORRELATED.min()).astype(np.uint64),
            jnp.asarray(CORRELATED, jnp.bfloat16),
            CORRELATED.astype(np.float16),
        ],
        ids=["list", "big-endian", "jax", "fortran", "int16", "uint64", "bfloat16", "float16"],
    )
    def test_any_numbers(self, points):
        wanted = np.asarray(points, np.float64)
        transform = fp.Standardise.fit(points)
        np.testing.assert_allclose(transform.mean.value, wanted.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(transform.std.value, wanted.std(axis=0), rtol=1e-5)

    def test_made_in_single_precision_and_used_in_double(self):
        transform = fp.Standardise.fit(CORRELATED)
        with jax.enable_x64(True):
            z = transform.forward(jnp.asarray(CORRELATED, np.float64))
            # The mean is held in two numbers. The standard deviation has a relative error of 6e-8.
            np.testing.assert_allclose(np.mean(z, axis=0), 0.0, atol=1e-11)

    def test_parts_of_a_large_data_set(self):
        points = np.random.default_rng(2).normal(5.0, 2.0, size=(300, 20_000)).astype(np.float32)
        transform = fp.Standardise.fit(points)
        np.testing.assert_allclose(transform.std.value, points.std(axis=0, dtype=np.float64), rtol=1e-6)


class TestWhiten:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_correlated_columns_of_every_scale(self, dtype):
        """A correlation of 0.999 loses log10(1 / sqrt(1 - 0.999^2)) = 1.3 digits of seven."""
        covariance = np.array([[1.0, 0.999, 0.3], [0.999, 1.0, 0.28], [0.3, 0.28, 1.0]])
        points = np.random.default_rng(3).multivariate_normal(np.zeros(3), covariance, size=5000)
        points = (points * [1e-4, 1.0, 1e4] + [2e-4, -3.0, 5e4]).astype(dtype)
        transform = fp.Whiten.fit(points)
        z = np.asarray(transform.forward(points), np.float64)
        np.testing.assert_allclose(np.cov(z.T, ddof=0), np.eye(3), atol=2e-5)
        np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=2e-5)
        back = transform.inverse(z.astype(dtype))
        assert (np.abs(back - points) < 1e-5 * points.std(axis=0)).all()
        wanted = -0.5 * np.linalg.slogdet(np.cov(points.astype(np.float64).T, ddof=0))[1]
        np.testing.assert_allclose(transform.log_det(points[0]), wanted, rtol=1e-5)

    def test_the_factor_is_the_given_one(self, x64):
        covariance = LOWER @ LOWER.T
        transform = fp.Whiten(np.zeros(3), np.linalg.cholesky(covariance))
        np.testing.assert_allclose(transform.inverse(np.eye(3)), LOWER.T, atol=1e-12)


class TestBounded:
    def test_uniform_data_become_normal(self, key):
        z = fp.Bounded(2.0, 6.0).forward(jax.random.uniform(key, (20_000,), minval=2.0, maxval=6.0))
        shares = norm.cdf(np.sort(np.asarray(z)))
        # Kolmogorov's distance is beyond 1.95 / sqrt(n) once in a thousand.
        assert np.abs(shares - np.arange(20_000) / 20_000).max() < 1.95 / np.sqrt(20_000)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 0.0), (5.0, 6.0), (-3e4, 2e-3)])
    def test_at_and_beyond_the_bounds(self, low, high, dtype, x64):
        transform = fp.Bounded(low, high)
        low, high = dtype(low), dtype(high)
        for bound in (low, high):
            z, log_det = transform.forward_and_log_det(jnp.asarray(bound))
            assert abs(z) < 8.3
            assert np.isfinite(log_det)
            np.testing.assert_allclose(transform.inverse(z), bound, atol=2 * np.finfo(dtype).eps * (high - low))
            out = transform.inverse(jnp.asarray([-40.0, -9.0, 9.0, 40.0, -jnp.inf, jnp.inf], dtype))
            assert (out >= low).all()
            assert (out <= high).all()
        for beyond in (low - 1, high + 1, -np.inf, np.inf):
            z, log_det = transform.forward_and_log_det(jnp.asarray(beyond, dtype))
            assert np.isfinite(z)
            assert log_det == -np.inf
            gradients = jax.jacobian(transform.forward_and_log_det)(jnp.asarray(beyond, dtype))
            assert np.isfinite(gradients).all()
        # The log-determinant from `z` is finite far beyond the last number inside of the bounds.
        np.testing.assert_allclose(
            transform.inverse_and_log_det(jnp.asarray(-30.0, dtype))[1], 450.9189385 - np.log(high - low), rtol=1e-6
        )

    def test_the_nearest_number_to_a_bound_in_half_precision(self):
        """0.3 is between two bfloat16 numbers: a sample must not be rounded past the bound."""
        transform = fp.Bounded(0.1, 0.3)
        samples = transform.inverse(jnp.linspace(-4, 4, 1001, dtype=jnp.bfloat16))
        assert np.isfinite(jax.vmap(transform.log_det)(samples)).all()

    def test_the_middle_has_a_gradient(self):
        assert float(jax.grad(fp.Bounded(0.0, 1.0).forward)(0.5)) == pytest.approx(np.sqrt(TURN), rel=1e-6)
        assert float(jax.grad(fp.Bounded(0.0, 1.0).inverse)(0.0)) == pytest.approx(1 / np.sqrt(TURN), rel=1e-6)


class TestPositive:
    @pytest.mark.parametrize("value", [0.0, -1.0, -np.inf, np.inf])
    def test_outside_of_the_support(self, value):
        z, log_det = fp.Positive().forward_and_log_det(jnp.array([value, 1.0]))
        assert np.isfinite(z).all()
        assert log_det == -np.inf
        assert np.isfinite(jax.jacobian(fp.Positive().forward_and_log_det)(jnp.array([value, 1.0]))[0]).all()
        assert np.isfinite(jax.grad(fp.Positive().log_det)(jnp.array([value, 1.0]))).all()

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
    def test_samples_stay_above_zero(self, dtype):
        out = fp.Positive().inverse(jnp.array([-200.0, 200.0], dtype))
        assert (out > 0).all()
        assert np.isfinite(out).all()


def angle_density(transform, theta, q):
    """The density of angles that a density on the line gives."""
    z, log_weights = transform.preimages(theta)
    return log_sum_over_preimages(jax.vmap(q)(z), log_weights)


class TestCircular:
    def test_the_density_is_periodic_and_smooth(self, x64):
        transform = fp.Circular(3.0, low=-1.0)
        q = lambda z: jax.scipy.stats.norm.logpdf(z, 0.4, 0.6).sum()  # noqa: E731
        log_p = lambda theta: angle_density(transform, theta, q)  # noqa: E731
        theta = jnp.linspace(-1, 2, 7)[:, None] + 0.01
        for turns in (-3.0, 3.0, 30.0):
            np.testing.assert_allclose(jax.vmap(log_p)(theta + turns), jax.vmap(log_p)(theta), atol=1e-9)
        # On both sides of the cut: 1e-6 further, by the slope.
        below, above = log_p(jnp.array([2 - 5e-7])), log_p(jnp.array([2 + 5e-7]))
        slope = jax.grad(lambda theta: log_p(theta[None]))(1.99999)
        np.testing.assert_allclose(above - below, slope * 1e-6, rtol=1e-2, atol=1e-9)

    def test_two_angles_integrate_to_one(self, x64):
        transform = fp.Circular(np.array([TURN, 1.0]), low=np.array([0.0, 0.0]))
        covariance = np.array([[1.0, 0.6], [0.6, 0.5]])
        q = lambda z: jax.scipy.stats.multivariate_normal.logpdf(z, jnp.array([0.3, -0.2]), covariance)  # noqa: E731
        edges = (np.arange(60) + 0.5) / 60
        grid = np.stack(np.meshgrid(TURN * edges, edges), axis=-1).reshape(-1, 2)
        values = jax.vmap(lambda theta: angle_density(transform, theta, q))(grid)
        # Nine places; beyond them are 4 deviations of the wider angle.
        np.testing.assert_allclose(np.exp(values).sum() * TURN / 3600, 1.0, atol=2e-4)

    def test_draws_of_one_angle(self, key):
        """Two points within a period of the centre, with their probabilities from `cos^2`."""
        transform, theta = fp.Circular(2.0), 0.5
        draws = jax.vmap(lambda key: transform.draw(jnp.array(theta), key=key))(jax.random.split(key, 20_000))
        places = np.asarray(draws) * 2.0 * np.sqrt(1 / 3 - 2 / np.pi**2)
        near = np.abs(places - theta) < 1e-5
        np.testing.assert_allclose(places[~near], theta - 2.0, atol=1e-5)
        # The standard error of a share is below 0.0036.
        assert abs(near.mean() - np.cos(np.pi * theta / 4) ** 2) < 4 * 0.0036

    def test_draws_of_uniform_angles(self, key):
        """The density on the line is `cos^2`, with variance 1 in the flow's coordinates."""
        theta = jax.random.uniform(key, (40_000,), minval=0.0, maxval=24.0)
        z = np.asarray(fp.Circular(24.0, low=0.0).draw(theta, key=jax.random.key(1)))
        assert abs(z.std() - 1) < 4 / np.sqrt(80_000)
        edges = np.linspace(-1, 1, 21)
        cdf = lambda v: (v + np.sin(np.pi * v) / np.pi + 1) / 2  # noqa: E731
        wanted = np.diff(cdf(edges)) * len(z)
        counts = np.histogram(z * np.sqrt(1 / 3 - 2 / np.pi**2), edges)[0]
        assert counts.sum() == len(z)
        assert ((counts - wanted) ** 2 / wanted).sum() < chi2.ppf(0.999, 19)

    @pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64", "bfloat16"])
    @pytest.mark.parametrize(("period", "low"), [(TURN, None), (24.0, 0.0), (360.0, -90.0), (0.1, 7.3)])
    def test_samples_lie_in_the_interval(self, period, low, dtype, x64):
        transform = fp.Circular(period, low)
        low = jnp.asarray(-period / 2 if low is None else low, dtype)
        high = low + jnp.asarray(period, dtype)
        # Among them places that rounding would take to the upper end.
        turns = jnp.concatenate([jnp.linspace(-9, 9, 2003), jnp.array([-0.5, 0.5]) + 0, -0.5 - 10.0 ** -jnp.arange(18)])
        z = jnp.concatenate([turns, 0.5 - 10.0 ** -jnp.arange(18)]) / np.sqrt(1 / 3 - 2 / np.pi**2)
        samples = transform.inverse(z.astype(dtype))
        assert (samples >= low).all()
        assert (samples < high).all()

    def test_angles_beyond_the_interval_are_the_same_angles(self):
        transform = fp.Circular(360.0, low=0.0)
        np.testing.assert_allclose(
            transform.forward(jnp.array([-90.0, 270.0, 630.0])), transform.forward(270.0), rtol=1e-5
        )
        # Small angles keep their digits.
        tiny = fp.Circular(TURN).forward(1e-12)
        np.testing.assert_allclose(fp.Circular(TURN).inverse(tiny), 1e-12, rtol=1e-5)

    def test_how_many(self):
        assert fp.Circular(1.0).preimages(jnp.zeros(5))[0].shape == (243, 5)
        with pytest.raises(ValueError, match=r"`Circular` has 6 coordinates, .* at most 5 .*`fp.OnColumns"):
            fp.Circular(1.0).preimages(jnp.zeros(6))


class TestDequantise:
    def test_probabilities_add_up_to_one(self, key, x64):
        """With a normal density around 7, the probability of each level is the integral over its interval."""
        transform = fp.Dequantise(400)
        q = lambda z: jax.scipy.stats.norm.logpdf(z, 7.0, 2.5)  # noqa: E731
        levels, keys = jnp.arange(30), jax.random.split(key, 30)

        def log_p(level, key):
            z, log_weights = transform.preimages(level, key=key)
            return log_sum_over_preimages(q(z), log_weights)

        values = np.exp(jax.vmap(log_p)(levels, keys))
        wanted = np.diff(norm.cdf(np.arange(31), 7.0, 2.5))
        # A density varies over a level by 0.3 of itself at most, uniformly: 400 draws are right to 0.3 / sqrt(4800).
        np.testing.assert_allclose(values[:15], wanted[:15], rtol=5 * 0.5 / np.sqrt(4800))
        np.testing.assert_allclose(values.sum(), 1 - norm.cdf(0, 7.0, 2.5), atol=3e-3)

    @pytest.mark.parametrize(
        "levels",
        [
            np.arange(256, dtype=np.uint8),
            np.arange(2000),
            np.array([4095, 4096, 100_000, 8_388_607, 16_777_215], np.int64),
            np.arange(300, dtype=np.float32),
            jnp.arange(256, dtype=jnp.bfloat16),
        ],
        ids=["uint8", "int64", "large", "float32", "bfloat16"],
    )
    def test_noise_stays_within_its_level(self, levels, key):
        for seed in jax.random.split(key, 50):
            z = fp.Dequantise().draw(levels, key=seed)
            np.testing.assert_array_equal(np.asarray(fp.Dequantise().inverse(z), np.float64), np.asarray(levels, float))
        np.testing.assert_array_equal(np.floor(fp.Dequantise().forward(levels)), np.asarray(levels, np.float32))

    def test_noise_is_uniform(self, key):
        z = np.asarray(fp.Dequantise().draw(jnp.full(40_000, 200), key=key)) - 200
        counts = np.histogram(z, 16, (0, 1))[0]
        assert ((counts - 2500) ** 2 / 2500).sum() < chi2.ppf(0.999, 15)

    @pytest.mark.parametrize("value", [-1.0, 1.5])
    def test_other_values_have_no_probability(self, value, key):
        assert (fp.Dequantise(2).preimages(jnp.array([value, 3.0]), key=key)[1] == -np.inf).all()
        assert fp.Dequantise().log_det(jnp.array([value, 3.0])) == -np.inf

    def test_draws_differ(self, key):
        z, log_weights = fp.Dequantise(5).preimages(np.arange(4), key=key)
        assert len(np.unique(z)) == 20
        np.testing.assert_allclose(np.exp(log_weights).sum(), 1.0, rtol=1e-6)
