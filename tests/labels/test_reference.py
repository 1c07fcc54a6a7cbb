"""The baselines: gradients through the whole of inference, by hand and with every adjoint."""

import functools
import itertools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_forms import blobs

import flowprop as fp


KEY = jax.random.key(21)
T = 3
PATH = fp.VPPath(fp.CosineNoiseSchedule())


class Perceptron(eqx.Module):
    first: jax.Array
    second: jax.Array

    def __init__(self, key):
        key_first, key_second = jax.random.split(key)
        self.first = jax.random.normal(key_first, (6, 12)) / 2
        self.second = jax.random.normal(key_second, (12, 3)) / 4

    def __call__(self, t, z, x):
        return jnp.tanh(jnp.concatenate([z, x, t[None]]) @ self.first) @ self.second


@functools.cache
def networks():
    return [Perceptron(key) for key in jax.random.split(KEY, T)]


@functools.cache
def backprop():
    return fp.BackpropClassifier(fp.NoPropDT(networks(), embedding=fp.one_hot_embedding(3)))


@functools.cache
def classifier():
    flow = fp.Flow(networks()[0], PATH, fp.CategoricalPrediction(), shape=(3,))
    return fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3))


def fit(model, steps=150):
    return fp.fit(model, blobs(0), optax.adam(1e-2), steps=steps, batch_size=80, key=KEY, progress=False)


def learns(trained, history):
    assert np.mean(history["loss"][-20:]) < 0.25 * np.mean(history["loss"][:5])
    found = np.asarray(trained.predict(blobs(1)[0], key=KEY))
    # 99.9 % is possible.
    assert np.mean(found == blobs(1)[1]) > 0.95


value_and_gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda model, *batch: model.loss(*batch, key=KEY)))


def example_keys():
    return jnp.stack([jax.random.fold_in(KEY, i) for i in range(6)])


class TestBackprop:
    def test_is_a_loop_through_all_blocks(self):
        """Value and gradient agree with the steps of NoProp's eq. 6 written out."""
        inputs, labels = blobs(0, 6)

        def by_hand(networks):
            def error(example, label, key):
                key_start, key_steps = jax.random.split(key)
                z = jax.random.normal(key_start, (3,))
                for i, (network, key) in enumerate(zip(networks, jax.random.split(key_steps, T), strict=True)):
                    s, t = np.float32([i / T, (i + 1) / T])
                    u = jax.nn.softmax(network(jnp.asarray(s), z, example))
                    a, b, noise_std = PATH.posterior(s, t)
                    z = a * u + b * z + noise_std * jax.random.normal(key, (3,))
                squares = jnp.sum(jnp.square((z / PATH.alpha(1.0))[None] - jnp.eye(3)), axis=1)
                # The radial readout, with a scale of 0.2 times the distance sqrt(2).
                return -jax.nn.log_softmax(-squares / (2 * 0.2**2 * 2))[label]

            return jnp.mean(jax.vmap(error)(inputs, labels, example_keys()))

        wanted, gradients = jax.jit(jax.value_and_grad(by_hand))(networks())
        found, gradient = value_and_gradient(backprop(), inputs, labels)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
        for one, other in zip(jax.tree.leaves(gradient.blocks.flow.network), jax.tree.leaves(stacked), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
            # The gradient passes through all blocks: each of them gets one from the single loss.
            assert np.all(np.max(np.abs(one), axis=(1, 2)) > 1e-4)

    def test_learns(self):
        learns(*fit(backprop()))

    def test_predicts_as_its_blocks_do(self):
        inputs = blobs(1)[0][:5]
        np.testing.assert_array_equal(
            backprop().predict_proba(inputs, key=KEY), backprop().blocks.predict_proba(inputs, key=KEY)
        )

    def test_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"`labels` lie in \[0, 3\]"):
            backprop().loss(np.zeros((2, 2), np.float32), np.array([0, 3]), key=KEY)


def fine(adjoint):
    """Small tolerances, so that the adjoints differ only by the error of the backward solve."""
    return fp.ODEIntegrator(solver=dfx.Heun(), dt0=0.01, adjoint=adjoint)


@functools.cache
def by_adjoint(name):
    model = fp.AdjointClassifier(classifier(), fine(getattr(dfx, name)()))
    return value_and_gradient(model, *blobs(0, 6))


class TestAdjoint:
    @pytest.mark.parametrize(
        ("name", "tolerance"), [pytest.param("DirectAdjoint", 1e-4, marks=pytest.mark.slow), ("BacksolveAdjoint", 2e-3)]
    )
    def test_gradients_agree(self, name, tolerance):
        """Through the operations of the solver, kept or recomputed, or by a second ODE solved backwards."""
        (wanted, gradient), (found, other) = by_adjoint("RecursiveCheckpointAdjoint"), by_adjoint(name)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        leaves = [jax.tree.leaves(g.classifier.flow.network) for g in (gradient, other)]
        for one, same in zip(*leaves, strict=True):
            largest = float(jnp.max(jnp.abs(one)))
            assert largest > 1e-2
            np.testing.assert_allclose(same, one, atol=tolerance * largest)

    def test_the_loss_is_that_of_the_end_points(self):
        """Compared with Heun's steps written out."""
        inputs, labels = blobs(0, 6)
        flow = classifier().flow
        velocity = jax.jit(lambda t, z: jax.vmap(lambda z, x: flow.velocity(t, z, (x, jnp.eye(3))))(z, inputs))
        z = jax.vmap(lambda key: jax.random.normal(key, (3,)))(example_keys())
        times = np.linspace(0, 1, 101, dtype=np.float32)
        for start, end in itertools.pairwise(map(jnp.asarray, times)):
            first = velocity(start, z)
            z = z + 0.005 * (first + velocity(end, z + 0.01 * first))
        ends = jax.vmap(fp.RadialReadout(), in_axes=(0, None))(z / PATH.alpha(1.0), jnp.eye(3))
        wanted = -np.mean(np.asarray(ends)[np.arange(6), labels])
        assert float(by_adjoint("RecursiveCheckpointAdjoint")[0]) == pytest.approx(wanted, rel=1e-4)

    def test_carries_one_gradient_for_a_batch(self):
        """The memory of the adjoint does not grow like the number of examples times the number of parameters."""
        network = fp.nn.MLP(shape=(3,), condition_size=2, width=256, depth=2, key=KEY)
        flow = fp.Classifier(flow=fp.fm_flow(network, shape=(3,)), embedding=fp.one_hot_embedding(3))
        model = fp.AdjointClassifier(flow, fp.ODEIntegrator(dfx.Euler(), dt0=0.5, adjoint=dfx.BacksolveAdjoint()))
        gradient = eqx.filter_jit(eqx.filter_grad(lambda model, *batch: model.loss(*batch, key=KEY)))
        memory = gradient.lower(model, *blobs(0, 64)).compile().compiled.memory_analysis().temp_size_in_bytes
        parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
        assert memory < 10 * parameters

    def test_takes_ten_steps_of_euler_by_default(self):
        wanted = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.1)
        assert eqx.tree_equal(fp.AdjointClassifier(classifier()).integrator, wanted)

    @pytest.mark.slow
    def test_learns(self):
        learns(*fit(fp.AdjointClassifier(classifier())))

    def test_predicts_by_its_integrator_or_another(self):
        inputs = blobs(1)[0][:5]
        coarse = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.5)
        model = fp.AdjointClassifier(classifier(), coarse)
        wanted = classifier().predict_proba(inputs, key=KEY, integrator=coarse)
        np.testing.assert_array_equal(model.predict_proba(inputs, key=KEY), wanted)
        other = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.25)
        wanted = classifier().predict_proba(inputs, key=KEY, integrator=other)
        np.testing.assert_array_equal(model.predict_proba(inputs, key=KEY, integrator=other), wanted)

    def test_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"`labels` lie in \[0, 3\]"):
            fp.AdjointClassifier(classifier()).loss(np.zeros((2, 2), np.float32), np.array([0, 3]), key=KEY)
