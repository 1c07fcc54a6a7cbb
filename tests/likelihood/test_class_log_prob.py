"""Likelihoods of classes against Bayes' rule on exact flows."""

import closed_forms as exact
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import flowprop as fp


MEANS = np.array([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.1]], np.float32)
COVARIANCE = np.array([[0.3, 0.2], [0.2, 0.4]])
POINTS = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
LOG_PROBS = np.stack([exact.gaussian_log_prob(POINTS, mean, COVARIANCE) for mean in MEANS], axis=1)


def class_flow(mean):
    """The exact flow of gaussians with one covariance, and means that depend on the condition."""
    path, prediction = fp.CondOTPath(), fp.VelocityPrediction()
    centred = exact.Denoiser(exact.Mixture([1.0], [[0.0, 0.0]], [COVARIANCE]), path, prediction)
    return fp.fm_flow(lambda t, z, x: centred(t, z - t * mean(x)) + mean(x), shape=(2,))


FLOWS = {
    "vectors": (class_flow(lambda x: x), MEANS),
    "indices": (class_flow(lambda x: jnp.asarray(MEANS)[x["class"]]), {"class": jnp.arange(3)}),
    "one-hot": (class_flow(lambda x: x @ MEANS), np.eye(3, dtype=np.float32)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_is_the_likelihood_under_every_class(name):
    flow, conditions = FLOWS[name]
    # The solver's tolerance is 1e-5; the farthest point is 8 standard deviations away.
    np.testing.assert_allclose(fp.class_log_prob(flow, POINTS, conditions), LOG_PROBS, atol=2e-3)


def test_all_classes_of_an_example_have_the_same_probes(key):
    """The Jacobian does not depend on the class, so that the error of the probes cancels in the differences."""
    flow, conditions = FLOWS["vectors"]
    noisy = fp.class_log_prob(flow, POINTS, conditions, key=key, divergence=fp.HutchinsonDivergence())
    errors = noisy - LOG_PROBS
    assert errors[:, 0].std() > 0.1
    np.testing.assert_allclose(errors, np.tile(errors[:, :1], 3), atol=2e-3)


def test_bayes_rule():
    prior = np.array([0.2, 0.5, 0.3])
    joint = LOG_PROBS + np.log(prior)
    wanted = joint - logsumexp(joint, axis=1, keepdims=True)
    np.testing.assert_allclose(fp.class_log_posterior(LOG_PROBS, np.log(prior)), wanted, rtol=1e-5, atol=1e-6)
    equal = fp.class_log_posterior(LOG_PROBS)
    np.testing.assert_allclose(jnp.exp(equal).sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(equal, fp.class_log_posterior(LOG_PROBS, np.full(3, 7.0)), rtol=1e-5, atol=1e-6)


def test_invalid_arguments_are_refused():
    flow, _ = FLOWS["vectors"]
    for conditions in (None, 1.0, np.zeros(0), (MEANS, MEANS[:2])):
        with pytest.raises(ValueError, match=r"`conditions` has leaves of shapes .*: give each the axis of classes"):
            fp.class_log_prob(flow, POINTS, conditions)
    with pytest.raises(ValueError, match=r"`log_prior` has shape \(2,\) where \(3,\) is needed"):
        fp.class_log_posterior(LOG_PROBS, jnp.zeros(2))
