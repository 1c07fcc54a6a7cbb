"""Posteriors against closed forms: a gaussian whose mass outside of the prior is known."""

import functools
import math

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flowprop as fp


class Exact(eqx.Module):
    """The exact velocity of `N(x + shift, std^2 I)` on the straight path from `N(0, I)`."""

    shift: jax.Array
    std: float

    def __call__(self, t, z, x):
        mean = x + self.shift
        variance = (t * self.std) ** 2 + (1 - t) ** 2
        return mean + (t * self.std**2 - (1 - t)) / variance * (z - t * mean)


STD = 0.5
PRIOR = fp.BoxUniform(-np.ones(2), np.ones(2))
HEUN = fp.ODEIntegrator(dfx.Heun(), dt0=0.02)
X = jnp.array([0.8, -0.3])
KEY = jax.random.key(0)


def flow(shift=0.0, **kwargs):
    return fp.fm_flow(Exact(jnp.asarray(shift), STD), shape=(2,), **kwargs)


def normal(x, shift=0.0):
    return [scipy.stats.norm(centre + shift, STD) for centre in np.asarray(x)]


def mass(x, shift=0.0):
    return math.prod(float(one.cdf(1) - one.cdf(-1)) for one in normal(x, shift))


def density(theta, x, shift=0.0):
    parts = [one.pdf(np.asarray(theta)[..., i]) for i, one in enumerate(normal(x, shift))]
    return np.prod(parts, axis=0)


POSTERIOR = fp.Posterior(flow(), PRIOR, integrator=HEUN)
ENSEMBLE = fp.Posterior(fp.FlowEnsemble([flow(0.0), flow(1.5)]), PRIOR, integrator=HEUN)
THETA = np.array([[0.9, -0.2], [0.0, 0.0], [1.1, 0.0], [np.nan, 0.0]])


class TestDensity:
    def test_is_normalised_within_the_support(self):
        values = np.asarray(POSTERIOR.log_prob(THETA, X))
        exact = np.log(density(THETA[:2], X) / mass(X))
        # The acceptance by 10,000 draws has a standard error of 0.006 nats; the solver adds 0.001.
        np.testing.assert_allclose(values[:2], exact, atol=0.02)
        assert values[2] == -np.inf
        assert np.isnan(values[3])
        # One point, and the mass given.
        one = POSTERIOR.log_prob(THETA[0], X, acceptance=mass(X))
        assert one.shape == ()
        np.testing.assert_allclose(one, exact[0], atol=2e-3)

    def test_acceptance_is_the_mass_within_its_error(self):
        fixed = POSTERIOR.acceptance(X)
        drawn = POSTERIOR.acceptance(X, key=KEY)
        # Fixed noise is spread more evenly than random draws.
        np.testing.assert_allclose(fixed.value, mass(X), rtol=2e-3)
        for share in (fixed, drawn):
            np.testing.assert_allclose(share.value, mass(X), atol=4 * float(share.standard_error))
            np.testing.assert_allclose(share.standard_error, np.sqrt(mass(X) * (1 - mass(X)) / 10_000), rtol=0.05)
        assert POSTERIOR.acceptance(X).value == fixed.value
        assert fixed.value != drawn.value

    def test_pairs(self):
        x = jnp.stack([X, -X])
        share = np.array([mass(one) for one in x])
        values = np.asarray(POSTERIOR.log_prob_each(THETA[:2], x, acceptance=share))
        exact = [np.log(density(theta, one) / mass(one)) for theta, one in zip(THETA[:2], x, strict=True)]
        np.testing.assert_allclose(values, exact, atol=2e-3)
        estimated = np.asarray(POSTERIOR.log_prob_each(THETA[:2], x, num_draws=1024))
        np.testing.assert_allclose(estimated, exact, atol=0.08)
        # Many points of each observation.
        points = np.stack([THETA[:2], THETA[1::-1], THETA[:2]], axis=1)
        many = np.asarray(POSTERIOR.log_prob_each(points, x, acceptance=share))
        each = [np.log(density(rows, one) / mass(one)) for rows, one in zip(points, x, strict=True)]
        np.testing.assert_allclose(many, each, atol=5e-3)

    def test_errors_are_stated(self):
        estimate = POSTERIOR.estimate_log_prob(THETA[:3], X, num_draws=1024)
        exact = np.log(density(THETA[:2], X) / mass(X))
        assert np.all(np.abs(np.asarray(estimate.value)[:2] - exact) < 4 * np.asarray(estimate.error)[:2])
        assert float(estimate.value[2]) == -np.inf
        np.testing.assert_allclose(
            estimate.error[0], math.hypot(float(estimate.flow.error[0]), float(estimate.acceptance.log_error))
        )

    def test_of_an_ensemble_is_the_mixture(self):
        exact = (density(THETA[:2], X) + density(THETA[:2], X, 1.5)) / (mass(X) + mass(X, 1.5))
        np.testing.assert_allclose(ENSEMBLE.log_prob(THETA[:2], X), np.log(exact), atol=0.03)
        share = ENSEMBLE.acceptance(X)
        np.testing.assert_allclose(share.value, (mass(X) + mass(X, 1.5)) / 2, atol=4 * float(share.standard_error))

    def test_gradients_pass(self):
        def value(theta, x):
            return POSTERIOR.log_prob(theta, x, acceptance=1.0)

        in_theta, in_x = jax.jit(jax.grad(value, (0, 1)))(jnp.array([0.5, 0.5]), X)
        np.testing.assert_allclose(in_theta, (X - 0.5) / STD**2, rtol=0.02)
        np.testing.assert_allclose(in_x, -in_theta, rtol=1e-3)


class TestSamples:
    def test_are_truncated(self):
        samples = np.asarray(POSTERIOR.sample(X, 4000, key=KEY))
        assert samples.shape == (4000, 2)
        assert np.abs(samples).max() <= 1
        for i, one in enumerate(normal(X)):
            low, high = one.cdf(-1), one.cdf(1)
            ranks = (one.cdf(samples[:, i]) - low) / (high - low)
            assert scipy.stats.kstest(ranks, "uniform").pvalue > 1e-3

    def test_do_not_depend_on_their_number(self):
        few, many = POSTERIOR.sample(X, 50, key=KEY), POSTERIOR.sample(X, 3000, key=KEY)
        np.testing.assert_allclose(few, many[:50], atol=1e-6)

    def test_of_several_observations(self):
        x = jnp.stack([X, -X, 0 * X])
        samples = np.asarray(POSTERIOR.sample_each(x, 1000, key=KEY))
        assert samples.shape == (3, 1000, 2)
        assert np.abs(samples).max() <= 1
        for row, one in zip(samples, x, strict=True):
            exact = [scipy.stats.truncnorm((-1 - m) / STD, (1 - m) / STD, m, STD).mean() for m in np.asarray(one)]
            np.testing.assert_allclose(row.mean(axis=0), exact, atol=4 * STD / 1000**0.5)

    def test_of_an_ensemble_are_those_of_the_mixture(self):
        samples = np.asarray(ENSEMBLE.sample(X, 4000, key=KEY))
        # The second member is cut off almost wholly: with the same number of samples from each, the mean would differ.
        parts = []
        for shift in (0.0, 1.5):
            m = float(X[1]) + shift
            parts.append((mass(X, shift), scipy.stats.truncnorm((-1 - m) / STD, (1 - m) / STD, m, STD).mean()))
        exact = sum(weight * mean for weight, mean in parts) / sum(weight for weight, _ in parts)
        np.testing.assert_allclose(samples[:, 1].mean(), exact, atol=4 * 0.6 / 4000**0.5)

    def test_a_tiny_acceptance_is_an_error(self):
        with pytest.raises(RuntimeError, match=r"0 of \d+ draws of `flow` lie within .*`fp.Bounded\(low, high\)`"):
            POSTERIOR.sample(jnp.array([9.0, 9.0]), 10, key=KEY, min_acceptance=0.1)
        with pytest.raises(RuntimeError, match="at row 1 of `x`"):
            POSTERIOR.sample_each(jnp.array([[0.0, 0.0], [9.0, 9.0]]), 10, key=KEY, min_acceptance=0.1)

    def test_a_low_acceptance_is_a_warning(self):
        x = jnp.array([2.0, 0.0])  # 2 % inside
        with pytest.warns(UserWarning, match=r"only 2\.\d+% of the draws"):
            samples = POSTERIOR.sample(x, 100, key=KEY)
        assert np.abs(samples).max() <= 1


def test_the_mode():
    """Outside of the box in one coordinate: the mode lies on its edge."""
    mode = POSTERIOR.map(jnp.array([1.2, -0.3]), key=KEY, num_samples=64, num_starts=2)
    np.testing.assert_allclose(mode, [1.0, -0.3], atol=0.01)
    assert PRIOR.in_support(mode)


class TestWeights:
    """The posterior N(X, 0.5^2) within the box, weighted into another one that is known."""

    @functools.cached_property
    def samples(self):
        return POSTERIOR.sample(X, 3000, key=KEY)

    def exact_mean(self, mean, std):
        """Of a truncated gaussian, in each coordinate."""
        return [scipy.stats.truncnorm((-1 - m) / std, (1 - m) / std, m, std).mean() for m in mean]

    def test_another_prior(self):
        class Tilted(eqx.Module):
            """Proportional to `exp(theta_0)` in the box."""

            event_shape: tuple = eqx.field(static=True, default=(2,))
            batch_shape: tuple = eqx.field(static=True, default=())

            def sample(self, key, sample_shape=()):
                return PRIOR.sample(key, sample_shape)

            def log_prob(self, theta):
                return PRIOR.log_prob(theta) + theta[..., 0]

        weights = POSTERIOR.weights(self.samples, X, prior=Tilted())
        mean = jnp.exp(weights.log_weights) @ self.samples
        # The factor exp(theta_0) shifts the mean of the gaussian by its variance.
        np.testing.assert_allclose(mean, self.exact_mean([X[0] + STD**2, X[1]], STD), atol=0.04)
        again = fp.resample(self.samples, weights, 3000, key=KEY)
        # Each count is rounded at random: 4 standard errors of at most 0.5 std / sqrt(3000).
        np.testing.assert_allclose(again.mean(axis=0), mean, atol=4 * 0.5 * STD / 3000**0.5)
        # The resampled points are in random order.
        np.testing.assert_allclose(again[:1000].mean(axis=0), mean, atol=0.06)

    def test_a_known_likelihood_corrects_the_flow(self):
        def log_likelihood(theta, x):
            return jax.scipy.stats.norm.logpdf(x, theta, 0.4).sum()

        share = mass(X)
        weights = POSTERIOR.weights(self.samples, X, log_likelihood=log_likelihood, acceptance=share)
        mean = jnp.exp(weights.log_weights) @ self.samples
        np.testing.assert_allclose(mean, self.exact_mean(np.asarray(X), 0.4), atol=0.04)
        assert 2000 < float(weights.effective_sample_size) < 3000
        parts = [scipy.stats.norm(m, 0.4) for m in np.asarray(X)]
        evidence = sum(np.log(one.cdf(1) - one.cdf(-1)) for one in parts) - np.log(4)
        np.testing.assert_allclose(weights.log_normaliser, evidence, atol=4 * float(weights.log_normaliser_error))

    def test_neither(self):
        with pytest.raises(ValueError, match="give `log_likelihood`, or another `prior`, or both"):
            POSTERIOR.weights(self.samples, X)


class Centred(eqx.Module):
    """A flow that does not move: N(0, 1) in path coordinates."""

    def __call__(self, t, z, x):
        return 0 * z


class TestATransformIntoTheSupport:
    def test_nothing_is_rejected(self):
        bounded = fp.fm_flow(Centred(), shape=(2,), transform=fp.Bounded(-np.ones(2), np.ones(2)))
        posterior = fp.Posterior(bounded, PRIOR, integrator=HEUN)
        assert posterior.never_rejects
        share = posterior.acceptance(X)
        assert (share.value, share.standard_error, share.num_draws) == (1, 0, 0)
        # The prior is returned: its density is 1/4.
        np.testing.assert_allclose(posterior.log_prob(THETA[:3], X), [-np.log(4), -np.log(4), -np.inf], atol=1e-4)

    def test_other_flows_may_reject(self):
        assert not POSTERIOR.never_rejects
        wide = fp.fm_flow(Centred(), shape=(2,), transform=fp.Bounded(-2 * np.ones(2), np.ones(2)))
        assert not fp.Posterior(wide, PRIOR).never_rejects

    def test_a_prior_without_bounds_needs_none(self):
        import numpyro.distributions as dist

        with jax.numpy_rank_promotion("allow"):
            posterior = fp.Posterior(flow(), dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1), integrator=HEUN)
        assert posterior.never_rejects
        np.testing.assert_allclose(posterior.log_prob(THETA[:3], X), np.log(density(THETA[:3], X)), atol=2e-3)


def test_an_encoder_is_called_once_for_all_samples():
    calls = []

    def encoder(x):
        jax.debug.callback(lambda: calls.append(1))
        return x["a"] - 1

    posterior = fp.Posterior(flow(encoder=encoder), PRIOR, integrator=HEUN)
    samples = posterior.sample({"a": X + 1}, 64, key=KEY)
    jax.effects_barrier()
    assert len(calls) == 1
    np.testing.assert_allclose(samples, POSTERIOR.sample(X, 64, key=KEY), atol=1e-5)


def test_saved_and_loaded(tmp_path):
    for name, posterior in {"one": POSTERIOR, "ensemble": ENSEMBLE}.items():
        fp.save(tmp_path / name, posterior)
        other = jax.tree.map(lambda leaf: leaf + 1 if eqx.is_inexact_array(leaf) else leaf, posterior)
        assert eqx.tree_equal(fp.load(tmp_path / name, other), posterior)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fp.Posterior(flow(), fp.BoxUniform(0.0, 1.0)), ValueError, r"`prior` has shape \(\) where the flow's"),
        (lambda: fp.Posterior(flow(), PRIOR, integrator=fp.SDEIntegrator()), TypeError, "a likelihood needs the ODE"),
        (lambda: POSTERIOR.sample(X * np.nan, 3, key=KEY), ValueError, "`x` has NaN or infinity in row 0 of 1"),
        (lambda: POSTERIOR.sample(None, 3, key=KEY), ValueError, "`x` holds no array"),
        (lambda: POSTERIOR.sample(X, 0, key=KEY), ValueError, "`num_samples` is 0"),
        (lambda: POSTERIOR.sample(X, 3, key=KEY, min_acceptance=0.0), ValueError, "`min_acceptance` is 0"),
        (lambda: POSTERIOR.log_prob(np.zeros(3), X), ValueError, r"`theta` has shape \(3,\) where \(2,\) is needed"),
        (lambda: POSTERIOR.log_prob(np.zeros(2), X, acceptance=0.0), ValueError, "`acceptance` is not above 0"),
        (lambda: POSTERIOR.log_prob_each(np.zeros((2, 2)), X[None]), ValueError, "where the batch has 2 examples"),
        (lambda: fp.FlowEnsemble([]), ValueError, "`flows` is empty"),
        (
            lambda: jax.jit(lambda x: POSTERIOR.sample(x, 3, key=KEY))(X),
            TypeError,
            "cannot be transformed by `jax.jit`",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
