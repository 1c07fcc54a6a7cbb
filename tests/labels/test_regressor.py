"""The samples of a regressor compared with known conditional distributions."""

import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._transform import Standardise


KEY = jax.random.key(31)
STD = 0.4


def mean_of(x):
    return np.sin(2 * x)


class Gaussian(eqx.Module):
    """The exact velocity for `y ~ N(f, STD^2)` given features `f`, on the straight path."""

    def __call__(self, t, z, x):
        variance = t**2 * STD**2 + (1 - t) ** 2
        residual = (z - t * x) / variance
        return x + t * STD**2 * residual - (1 - t) * residual


@functools.cache
def exact():
    return fp.Regressor(flow=fp.fm_flow(Gaussian(), shape=(1,)), encoder=lambda x: jnp.sin(2 * x))


INPUTS = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]


class TestSamples:
    """Samples of a regressor with the exact velocity."""

    @staticmethod
    @functools.cache
    def samples():
        return np.asarray(exact().sample(INPUTS, 4000, key=KEY), float)

    def test_have_the_conditional_moments(self):
        assert self.samples().shape == (5, 4000, 1)
        # 4 standard errors.
        np.testing.assert_allclose(np.mean(self.samples(), axis=1), mean_of(INPUTS), atol=4 * STD / np.sqrt(4000))
        np.testing.assert_allclose(np.std(self.samples(), axis=1), np.full((5, 1), STD), rtol=4 / np.sqrt(2 * 4000))

    def test_predict_is_their_mean(self):
        found = exact().predict(INPUTS, key=KEY, num_samples=4000)
        np.testing.assert_allclose(found, np.mean(self.samples(), axis=1), atol=1e-5)

    def test_an_input_does_not_depend_on_the_other_inputs(self):
        inputs = INPUTS.copy()
        inputs[:3] = 9.0
        np.testing.assert_array_equal(exact().sample(inputs, 4000, key=KEY)[3:], np.float32(self.samples()[3:]))

    def test_the_batch_size_does_not_matter(self):
        found = exact().sample(INPUTS[:3], 4000, key=KEY, batch_size=2)
        np.testing.assert_allclose(found, self.samples()[:3], atol=1e-5)

    def test_each_input_is_encoded_once(self):
        calls = []

        def encoder(x):
            jax.debug.callback(lambda _: calls.append(1), x)  # called once for each example under `vmap`
            return x

        regressor = fp.Regressor(flow=exact().flow, encoder=encoder)
        euler = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.5)
        jax.block_until_ready(regressor.sample(INPUTS[:4], 7, key=KEY, integrator=euler))
        jax.effects_barrier()
        assert len(calls) == 4

    @pytest.mark.parametrize("name", ["num_samples", "batch_size"])
    def test_counts_that_are_not_positive_are_refused(self, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            exact().sample(INPUTS, **{"num_samples": 2, name: 0}, key=KEY)


class TestLoss:
    def test_is_the_loss_of_the_flow_given_the_features(self):
        targets, features = np.ones((5, 1), np.float32), jnp.sin(2 * jnp.asarray(INPUTS))
        loss = eqx.filter_jit(lambda model, *batch: model.loss(*batch, key=KEY))
        assert float(loss(exact(), INPUTS, targets)) == float(loss(exact().flow, targets, features))

    def test_learns_the_conditional_distribution(self):
        draw = np.random.default_rng(0)
        inputs = draw.uniform(-1.2, 1.2, (4000, 1)).astype(np.float32)
        targets = (mean_of(inputs) + STD * draw.standard_normal((4000, 1))).astype(np.float32)
        network = fp.nn.MLP(shape=(1,), condition_size=1, width=32, depth=2, key=KEY)
        regressor = fp.Regressor(flow=fp.fm_flow(network, shape=(1,)))
        trained, _ = fp.fit(
            regressor, (inputs, targets), optax.adam(5e-3), steps=600, batch_size=256, key=KEY, ema=0.98, progress=False
        )
        euler = fp.ODEIntegrator(solver=dfx.Heun(), dt0=0.1)
        samples = np.asarray(trained.sample(INPUTS, 1000, key=KEY, integrator=euler))
        # Training is short. The mean varies by 1.8 over the inputs, and sampling adds an error of at most 0.013.
        np.testing.assert_allclose(np.mean(samples, axis=1), mean_of(INPUTS), atol=0.12)
        np.testing.assert_allclose(np.std(samples, axis=1), np.full((5, 1), STD), rtol=0.2)


class TestShapes:
    @pytest.mark.parametrize("shape", [(4, 1), (5, 2), (5,), (5, 1, 1)])
    def test_targets_that_do_not_fit_are_refused(self, shape):
        with pytest.raises((ValueError, TypeError), match=r"`targets` has shape .* where \(5, 1\) is"):
            exact().loss(INPUTS, np.zeros(shape, np.float32), key=KEY)

    def test_the_default_encoder_is_none(self):
        np.testing.assert_array_equal(fp.Regressor(flow=exact().flow).encoder(jnp.ones(3)), np.ones(3))

    def test_are_checked_before_training(self):
        exact().check_data(INPUTS, np.linspace(-1, 1, 5, dtype=np.float32)[:, None])
        with pytest.raises(ValueError, match=r"`targets` has shape \(4, 1\)"):
            exact().check_data(INPUTS, np.zeros((4, 1), np.float32))
        with pytest.warns(UserWarning, match="far from the unit scale"):
            exact().check_data(INPUTS, np.linspace(100, 101, 5, dtype=np.float32)[:, None])

    def test_a_network_with_a_state_is_refused(self):
        stateful = fp.fm_flow(Stateful(), shape=(1,))
        with pytest.raises(ValueError, match="`flow` has a network with a state, which a regressor cannot train"):
            fp.Regressor(flow=stateful)


class Stateful(eqx.Module):
    has_state: bool = True

    def __call__(self, t, z, x):
        return z


EULER = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.5)


class TestRows:
    def test_a_row_that_is_not_finite_is_nan_and_does_not_affect_others(self):
        inputs = INPUTS.copy()
        inputs[1], inputs[3] = np.nan, np.inf
        found = np.asarray(exact().sample(inputs, 3, key=KEY))
        np.testing.assert_array_equal(np.isnan(found).any(axis=(1, 2)), [False, True, False, True, False])
        np.testing.assert_array_equal(found[::2], exact().sample(INPUTS, 3, key=KEY)[::2])
        np.testing.assert_array_equal(
            np.isnan(exact().predict(inputs, key=KEY))[:, 0], [False, True, False, True, False]
        )

    def test_many_samples_of_few_inputs_take_bounded_memory(self):
        """Neither all inputs nor all samples of an input are computed at once. With one number each, that is 16 MB."""
        regressor = fp.Regressor(flow=fp.fm_flow(Wide(), shape=(1,)))
        sample = eqx.filter_jit(lambda inputs: regressor.sample(inputs, 2000, key=KEY, integrator=EULER))
        memory = sample.lower(jnp.ones((20, 1))).compile().compiled.memory_analysis().temp_size_in_bytes
        # 1024 solves of 100 numbers each, a few times, and the samples themselves; 40,000 solves would take 16 MB.
        assert memory < 5e6

    @pytest.mark.parametrize("num_samples", [1500, 5])
    def test_the_default_size_changes_nothing(self, num_samples):
        """With more samples than are solved at once, and with fewer."""
        found = exact().sample(INPUTS[:2], num_samples, key=KEY, integrator=EULER)
        wanted = exact().sample(INPUTS[:2], num_samples, key=KEY, integrator=EULER, batch_size=2)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert len(np.unique(found)) == found.size


class Wide(eqx.Module):
    """A network with 100 activations."""

    def __call__(self, t, z, x):
        return jnp.sum(jnp.sort(jnp.sin(z[0] * jnp.arange(100.0))))[None]


def in_units():
    transform = Standardise(jnp.array([50.0]), jnp.array([10.0]))
    return fp.Flow(Gaussian(), fp.CondOTPath(), fp.VelocityPrediction(), shape=(1,), transform=transform)


class TestUnits:
    def test_samples_have_the_units_of_the_targets(self):
        """The velocity is that of N(0, 1) in the flow's coordinates: N(mean, std^2) in the units of the targets."""
        regressor = fp.Regressor(flow=in_units())
        found = np.asarray(regressor.sample(INPUTS, 4000, key=KEY), float)
        np.testing.assert_allclose(np.mean(found, axis=1), 50 + 10 * INPUTS, atol=40 * STD / np.sqrt(4000))
        np.testing.assert_allclose(np.std(found, axis=1), np.full((5, 1), 10 * STD), rtol=4 / np.sqrt(2 * 4000))

    def test_the_loss_is_the_flows(self):
        weights = np.arange(5, dtype=np.float32)
        targets = (50 + 10 * INPUTS).astype(np.float32)
        found = fp.Regressor(flow=in_units()).loss(INPUTS, targets, key=KEY, weights=weights)
        plain = fp.fm_flow(Gaussian(), shape=(1,))
        wanted = fp.Regressor(flow=plain).loss(INPUTS, INPUTS, key=KEY, weights=weights)
        assert float(found) == pytest.approx(float(wanted), rel=1e-4)
