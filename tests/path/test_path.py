"""Paths against the definitions of their coefficients."""

import closed_forms as exact
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._path.span import derivative


PATHS = {
    "condot": fp.CondOTPath,
    "linear": lambda: fp.VPPath(fp.LinearNoiseSchedule()),
    "cosine": lambda: fp.VPPath(fp.CosineNoiseSchedule()),
    "sigmoid": lambda: fp.VPPath(fp.SigmoidNoiseSchedule(13.0)),
    "learnable": lambda: fp.VPPath(exact.learnable()),
    "exponential": lambda: fp.VPPath(fp.ExponentialNoiseSchedule()),
    "cauchy": lambda: fp.VPPath(fp.CauchyNoiseSchedule()),
    "delegating": lambda: Delegating(fp.CondOTPath()),
    "straight": lambda: fp.AffinePath(lambda t: t, lambda t: 1 - t),
    "trigonometric": fp.trigonometric_path,
    "polynomial": lambda: fp.polynomial_path(2),
    "exploding": fp.variance_exploding_path,
}
each_path = pytest.mark.parametrize("path", PATHS)
VARIANCE_PRESERVING = ["linear", "cosine", "sigmoid", "learnable", "exponential", "cauchy", "trigonometric"]
INSIDE = np.linspace(0.04, 0.96, 24)
# `g^2` of the reverse SDE by its own formula.
DIFFUSION = {
    "condot": lambda path, t: 2 * path.sigma(t),
    "delegating": lambda path, t: 2 * path.sigma(t),
    "straight": lambda path, t: 2 * path.sigma(t),
    "trigonometric": lambda path, t: np.pi * path.sigma(t),
    "polynomial": lambda path, t: 4 * t * path.sigma(t),
    # `-d sigma^2 / dt`, as of Song et al. 2021, eq. 30, in our time.
    "exploding": lambda path, t: -derivative(lambda s: path.sigma(s) ** 2, t),
}


class Delegating(fp.AbstractPath):
    """A path of a user, which defines the abstract methods only and delegates them to another path."""

    inner: fp.AbstractPath
    target_span = (0.0, 0.99)
    noise_span = (0.01, 1.0)
    velocity_span = (0.0, 1.0)

    def alpha(self, t):
        return self.inner.alpha(t)

    def sigma(self, t):
        return self.inner.sigma(t)

    def gamma(self, t):
        return self.inner.gamma(t)

    def diffusion(self, t):
        return self.inner.diffusion(t)

    def from_target(self, t, z, target):
        return self.inner.from_target(t, z, target)

    def from_noise(self, t, z, noise):
        return self.inner.from_noise(t, z, noise)

    def from_velocity(self, t, z, velocity):
        return self.inner.from_velocity(t, z, velocity)


@each_path
def test_gamma_is_the_log_signal_to_noise_ratio_and_rises(path, x64):
    path, t = PATHS[path](), jnp.asarray(INSIDE)
    np.testing.assert_allclose(path.gamma(t), 2 * np.log(path.alpha(t) / path.sigma(t)), rtol=1e-9)
    assert np.all(np.diff(path.gamma(t)) > 0)
    assert np.all(np.diff(path.alpha(t)) >= 0)
    assert np.all(np.diff(path.sigma(t)) < 0)


@each_path
def test_coefficients_take_floats_arrays_and_transformations(path):
    path = PATHS[path]()
    for function in (path.alpha, path.sigma, path.gamma):
        batch = function(jnp.asarray(INSIDE, jnp.float32))
        assert batch.dtype == jnp.float32
        one_by_one = jnp.stack([function(float(t)) for t in INSIDE])
        np.testing.assert_allclose(batch, one_by_one, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(batch, jax.jit(jax.vmap(function))(INSIDE.astype("float32")), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", VARIANCE_PRESERVING)
def test_the_variance_is_preserved(path):
    path = PATHS[path]()
    t = jnp.linspace(*path.span, 50)
    np.testing.assert_allclose(path.alpha(t) ** 2 + path.sigma(t) ** 2, 1, rtol=1e-6)


def test_named_schedules_are_those_of_the_papers():
    t = jnp.linspace(0, 1, 11)
    linear, cosine = PATHS["linear"](), PATHS["cosine"]()
    np.testing.assert_allclose(linear.alpha(t) ** 2, 0.01 + 0.98 * t, rtol=1e-5)
    np.testing.assert_allclose(cosine.alpha(t) ** 2, 0.01 + 0.98 * np.sin(np.pi * t / 2), rtol=1e-5)


@each_path
def test_derivatives_are_those_of_finite_differences(path, x64):
    path, t, h = PATHS[path](), jnp.asarray(INSIDE), 1e-5
    for function in (path.alpha, path.sigma):
        numeric = (function(t + h) - function(t - h)) / (2 * h)
        np.testing.assert_allclose(derivative(function, t), numeric, rtol=1e-6, atol=1e-9)


@each_path
def test_the_diffusion_is_that_of_known_reverse_sdes(path, x64):
    """`g`, and `g^2/(2 sigma)` without the division."""
    name, path = path, PATHS[path]()
    for t in INSIDE:
        g, half_ratio = path.diffusion(t)
        np.testing.assert_allclose(half_ratio, g**2 / (2 * path.sigma(t)), rtol=1e-9)
        preserving = derivative(path.gamma, t) * path.sigma(t) ** 2
        np.testing.assert_allclose(g**2, DIFFUSION[name](path, t) if name in DIFFUSION else preserving, rtol=1e-9)


@each_path
def test_the_diffusion_is_finite_up_to_both_ends(path):
    path = PATHS[path]()
    for t in path.span:
        assert np.all(np.isfinite(path.diffusion(jnp.asarray(t))))


def test_both_forms_of_the_drift_agree(x64):
    """On a VP path `v - g^2/(2 sigma) eps = gamma' (alpha u - (1 + alpha^2)/2 z)`; on CondOT `v - eps`."""
    z, u = jnp.array([0.3, -0.8]), jnp.array([1.1, 0.4])
    for t in (0.1, 0.5, 0.9):
        path = PATHS["linear"]()
        estimate, alpha = path.from_target(t, z, u), path.alpha(t)
        drift = estimate.velocity - path.diffusion(t)[1] * estimate.noise
        wanted = derivative(path.gamma, t) * (alpha * u - (1 + alpha**2) / 2 * z)
        np.testing.assert_allclose(drift, wanted, rtol=1e-10)
        estimate = fp.CondOTPath().from_target(t, z, u)
        drift = estimate.velocity - fp.CondOTPath().diffusion(t)[1] * estimate.noise
        np.testing.assert_allclose(drift, estimate.velocity - estimate.noise, rtol=1e-10)


S, T = np.array([[0.05, 0.1], [0.1, 0.9], [0.5, 0.51], [0.9, 0.96]]).T


@eqx.filter_jit
def posterior(path, s, t, stochasticity=1.0):
    return jax.vmap(lambda s, t: path.posterior(s, t, stochasticity))(jnp.asarray(s), jnp.asarray(t))


@each_path
def test_the_posterior_is_that_of_bayes(path, x64):
    """Given z_1, `z_t ~ N(alpha_t z_1, sigma_t^2)` and, going back, `z_s = r z_t` and the noise that makes sigma_s."""
    path = PATHS[path]()
    r, sigma = path.alpha(S) / path.alpha(T), path.sigma(T)
    added = path.sigma(S) ** 2 - r**2 * sigma**2
    variance = 1 / (1 / sigma**2 + r**2 / added)
    wanted = variance * path.alpha(T) / sigma**2, variance * r / added, jnp.sqrt(variance)
    np.testing.assert_allclose(posterior(path, S, T), wanted, rtol=1e-8)


@pytest.mark.parametrize("path", VARIANCE_PRESERVING)
def test_the_posterior_of_a_variance_preserving_path_is_that_of_the_paper(path, x64):
    """The paper is NoProp, eq. 6. Its alpha-bar is alpha squared."""
    path = PATHS[path]()
    before, now = path.alpha(S) ** 2, path.alpha(T) ** 2
    r = before / now
    a, b = jnp.sqrt(now) * (1 - r) / (1 - before), jnp.sqrt(r) * (1 - now) / (1 - before)
    c = (1 - now) * (1 - r) / (1 - before)
    np.testing.assert_allclose(posterior(path, S, T), (a, b, jnp.sqrt(c)), rtol=1e-8)


@each_path
def test_a_step_keeps_the_marginal_for_every_stochasticity(path, x64):
    """The step keeps mean and variance given the data. Without noise it keeps the estimated noise (DDIM)."""
    path = PATHS[path]()
    for stochasticity in (0, 0.3):
        a, b, noise_std = posterior(path, S, T, stochasticity)
        np.testing.assert_allclose(a + b * path.alpha(S), path.alpha(T), rtol=1e-12)
        np.testing.assert_allclose((b * path.sigma(S)) ** 2 + noise_std**2, path.sigma(T) ** 2, rtol=1e-9)
        np.testing.assert_allclose(noise_std, stochasticity * posterior(path, S, T)[2], rtol=1e-12)
        assert stochasticity > 0 or np.allclose(b, path.sigma(T) / path.sigma(S), rtol=1e-12)


@each_path
def test_the_posterior_is_accurate_in_single_precision(path):
    """For small steps, for a large step, and up to both ends."""
    path = PATHS[path]()
    grid = np.linspace(*path.span, 1001)
    s, t = np.array([*grid[:-1], grid[0]]), np.array([*grid[1:], grid[-1]])
    for stochasticity in (0.0, 1.0):
        with jax.enable_x64(True):
            wanted = np.stack(posterior(path, s, t, stochasticity))
        assert np.all(np.isfinite(wanted))
        np.testing.assert_allclose(posterior(path, s, t, stochasticity), wanted, rtol=1e-4, atol=1e-4)


def test_the_straight_path_begins_at_noise_and_ends_at_the_data():
    path = fp.CondOTPath()
    for stochasticity in (0.0, 0.5, 1.0):
        np.testing.assert_array_equal(path.posterior(0.25, 1.0, stochasticity), (1, 0, 0))
    # Independent of where it began, or a blend with the noise that it began with.
    np.testing.assert_allclose(path.posterior(0.0, 0.25), (0.25, 0, 0.75), rtol=1e-6)
    np.testing.assert_allclose(path.posterior(0.0, 0.25, 0), (0.25, 0.75, 0), rtol=1e-6)


class Trigonometric(fp.AbstractNoiseSchedule):
    """A schedule of a user, infinite at both ends. Its parameters, if it has any, are traced in `jax.jit`."""

    scale: jax.Array | float = 1.0

    def gamma(self, t):
        return 2 * self.scale * jnp.log(jnp.tan(jnp.pi / 2 * jnp.asarray(t)))


# Name -> path; its spans for a target, noise and a velocity, which stop at the arcsine or the root of 0.01.
SPANS = {
    "condot": (fp.CondOTPath, (0, 0.99), (0.01, 1), (0, 1)),
    "straight": (PATHS["straight"], (0, 0.99), (0.01, 1), (0, 1)),
    "trigonometric": (fp.trigonometric_path, (0, 1 - 0.00637), (0.00637, 1), (0, 1)),
    # 1 - t^2 = 0.01 at 0.99499, t^2 = 0.01 at 0.1, and w = 2 t.
    "polynomial": (PATHS["polynomial"], (0, 0.99499), (0.1, 1), (0.005, 1)),
    "root": (lambda: fp.AffinePath(jnp.sqrt, lambda t: jnp.sqrt(1 - t)), (1e-5, 1 - 1e-4), (1e-4, 1 - 1e-5), None),
    "exploding": (fp.variance_exploding_path, (0, 1), (0, 1), (0, 1)),
    "sigmoid": (PATHS["sigmoid"], (0, 1), (0, 1), (0, 0.99)),
    "wide": (lambda: fp.VPPath(fp.SigmoidNoiseSchedule(40)), (0, 1), (0, 1), None),
    "learnable": (PATHS["learnable"], (0, 1), (0, 1), (0, 0.99)),
    "user's schedule": (lambda: fp.VPPath(Trigonometric()), *[(0.00637, 1 - 0.00637)] * 2, (0.00637, 1 - 0.00637)),
    # alpha = 0.01 at gamma = -9.21, where tan(pi (1/2 - t)) = 9.21.
    "cauchy": (PATHS["cauchy"], *[(0.0344, 0.9656)] * 3),
    "laplace": (lambda: fp.VPPath(fp.LaplaceNoiseSchedule(scale=1.0)), *[(5e-5, 1 - 5e-5)] * 3),
}


class TestSpans:
    @pytest.mark.parametrize("name", SPANS)
    @pytest.mark.parametrize("precise", [False, True])
    def test_follow_from_the_path(self, name, precise):
        make, target, noise, velocity = SPANS[name]
        with jax.enable_x64(precise):
            path = make()
        for span, wanted in ((path.target_span, target), (path.noise_span, noise), (path.velocity_span, velocity)):
            if wanted is not None:
                # Two digits of the distance from an end.
                np.testing.assert_allclose(span[0], wanted[0], rtol=0.05)
                np.testing.assert_allclose(1 - span[1], 1 - wanted[1], rtol=0.05, atol=1e-9)
        assert path.span[0] == min(path.target_span[0], path.noise_span[0], path.velocity_span[0])
        assert path.span[1] == max(path.target_span[1], path.noise_span[1], path.velocity_span[1])

    @pytest.mark.parametrize("prediction", [fp.TargetPrediction(), fp.PreconditionedPrediction(0.7)])
    def test_an_unbounded_schedule_gives_a_finite_flow(self, prediction):
        """In single precision, at the ends too. Outside the span there is an error instead of NaN."""
        flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), schedule=Trigonometric(), prediction=prediction)
        for t in np.linspace(*flow.span, 9):
            assert np.all(np.isfinite(jnp.stack(flow.estimate(float(t), jnp.ones(2)))))
        with pytest.raises(ValueError, match="`t` is outside of"):
            flow.velocity(0.0, jnp.ones(2))

    def test_are_the_same_inside_jit(self):
        path = fp.VPPath(Trigonometric(jnp.asarray(1.0)))
        assert path.span[0] > 0
        spans = []
        eqx.filter_jit(lambda path: spans.append(path.span))(path)
        assert spans == [path.span]

    def test_a_traced_schedule_counts_as_bounded(self):
        def span(scale):
            path = fp.VPPath(Trigonometric(scale))
            assert path.span == (0, 1)
            assert (path.snr_is_finite, path.starts_at_source, path.is_straight) == (True, False, False)
            return path.alpha(0.3)

        assert jnp.all(jnp.isfinite(jax.jit(jax.vmap(span))(jnp.ones(3))))

    def test_an_ensemble_of_learnable_schedules(self, key):
        def flow(key):
            return fp.ct_flow(lambda t, z, x: z, shape=(2,), schedule=fp.LearnableNoiseSchedule((4,), key=key))

        flows = eqx.filter_vmap(flow)(jax.random.split(key, 2))
        assert flows.span == (0, 1)
        assert eqx.filter_vmap(lambda flow: flow.path.alpha(0.3))(flows).shape == (2,)


# Name -> whether the path starts at the source, whether its SNR is finite, whether it is straight.
PROPERTIES = {
    "condot": (True, False, True),
    "delegating": (True, False, True),
    "straight": (True, False, True),
    "trigonometric": (True, False, False),
    "polynomial": (True, False, False),
    "exploding": (False, True, False),
    "sigmoid": (False, True, False),
    "cauchy": (False, True, False),
    "learnable": (False, True, False),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_derived_properties(name):
    path, wanted = PATHS[name](), PROPERTIES[name]

    def asked(path):
        return path.starts_at_source, path.snr_is_finite, path.is_straight

    answers = [asked(path)]
    # Without arrays a path is as well known inside of `jax.jit`.
    if not jax.tree.leaves(eqx.filter(path, eqx.is_array)):
        jax.jit(lambda t: answers.append(asked(path)) or t)(1.0)
    assert set(answers) == {wanted}


@each_path
def test_the_wronskian_is_the_slope_of_the_log_snr(path, x64):
    path, t = PATHS[path](), jnp.asarray(INSIDE)
    wanted = path.alpha(t) * path.sigma(t) * derivative(path.gamma, t) / 2
    np.testing.assert_allclose(path.wronskian(t), wanted, rtol=1e-9)


@each_path
def test_the_time_of_a_log_snr_is_the_inverse(path, x64):
    path = PATHS[path]()
    start, end = path.span
    for t in np.linspace(start, end, 7)[1:-1]:
        assert float(path.time_at(path.gamma(t), path.span)) == pytest.approx(t, abs=1e-12)
    assert float(path.time_at(-np.inf, (0.2, 0.7))) == pytest.approx(0.2)
    assert float(path.time_at(np.inf, (0.2, 0.7))) == pytest.approx(0.7)
    assert path.time_at(0.3).dtype == jnp.float64
    inside = eqx.filter_jit(lambda path, gamma: path.time_at(gamma, path.span))(path, path.gamma(0.4))
    assert float(inside) == pytest.approx(0.4, abs=1e-12)


@each_path
def test_gradients_of_a_path(path):
    """Gradients by a time, of all methods that a solve or a loss uses."""
    path, z = PATHS[path](), jnp.array([0.3, -0.8])

    def views(t):
        ways = path.from_target(t, z, 2 * z), path.from_noise(t, z, 2 * z), path.from_velocity(t, z, 2 * z)
        return sum(jnp.sum(jnp.stack(way)) for way in ways) + sum(path.diffusion(t)) + path.wronskian(t)

    assert np.isfinite(jax.jit(jax.grad(views))(0.4))
