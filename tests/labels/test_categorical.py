"""Logits over classes as an estimate of the target."""

import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


MATRIX = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
Z0, Z1 = np.array([0.7, -1.2]), np.array([0.4, 0.9])


def test_categorical_targets_are_means_of_embeddings(x64):
    prediction, path = fp.CategoricalPrediction(), fp.CondOTPath()
    logits, z = jnp.array([0.2, -1.0, 0.7]), jnp.asarray(Z1)
    condition = ({"features": jnp.ones(4)}, jnp.asarray(MATRIX))
    target = np.exp(logits) @ MATRIX / np.exp(logits).sum()
    estimate = prediction.estimate(path, 0.3, z, logits, condition)
    np.testing.assert_allclose(estimate.target, target)
    np.testing.assert_allclose(estimate.velocity, (target - Z1) / 0.7)
    error = prediction.error(path, 0.3, jnp.asarray(Z0), z, logits, condition)
    np.testing.assert_allclose(error, np.sum((target - Z1) ** 2))
    assert prediction.takes_embeddings
    given, output_shape = prediction.interface((2,), condition)
    assert (given is condition[0], output_shape) == (True, (3,))
    assert prediction.span(path) == (0.0, 0.99)


def test_a_categorical_prediction_needs_the_embeddings():
    flow = fp.Flow(lambda t, z, x: z, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,))
    with pytest.raises(ValueError, match=r"`x` is .*\(features, W\)"):
        flow.target(0.5, jnp.ones(2), jnp.ones(3))


def test_logits_of_another_number_of_classes_are_refused():
    flow = fp.Flow(lambda t, z, x: x, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,))
    with pytest.raises(ValueError, match=r"`network\(t, z, x\)` has shape \(4,\) where \(3,\) is needed"):
        flow.target(0.5, jnp.ones(2), (jnp.ones(4), jnp.asarray(MATRIX)))
