"""Churn, the last evaluation of the target, and joint steps, against closed forms."""

import dataclasses

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


NUM_SAMPLES = 2_000


def adaptive(**options):
    return fp.ODEIntegrator(dfx.Heun(), dfx.PIDController(rtol=1e-4, atol=1e-4, **options))


PER_EXAMPLE, JOINT = adaptive(), adaptive(norm=fp.joint_norm)


def assert_moments(samples, mean, covariance, slack=0.0):
    """Within four standard errors, computed from the samples themselves."""
    samples = np.asarray(samples, float)
    centred = samples - samples.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    for value, wanted in ((samples, mean), (products, covariance)):
        error = value.std(axis=0) / np.sqrt(len(samples))
        assert np.all(np.abs(value.mean(axis=0) - wanted) < 4 * error + slack)


@pytest.mark.parametrize(("pair", "data"), [("fm", "MIXTURE"), ("ct sigmoid", "GAUSSIAN")])
@pytest.mark.parametrize("churn", [0, 0.5, 2])
def test_any_churn_has_the_moments_of_the_data(pair, data, churn, key):
    flow, data = exact.exact_flow(getattr(exact, data), *exact.PAIRS[pair]()), getattr(exact, data)
    samples = fp.sample(flow, NUM_SAMPLES, key=key, integrator=fp.SDEIntegrator(100, churn=churn))
    # The bias of Euler at 100 steps; without churn also the start of ct, where alpha is 0.04.
    assert_moments(samples, data.mean, data.covariance, slack=0.03 + 0.05 * (churn == 0))


def test_no_churn_is_euler(key):
    flow = exact.exact_flow(exact.MIXTURE, *exact.PAIRS["fm"]())
    z = start = jnp.array([0.3, -0.8])
    velocity = eqx.filter_jit(flow.velocity)
    for i in range(10):
        z += 0.1 * velocity(jnp.float32(i / 10), z)
    quiet, noisy = (
        fp.solve(flow, start, integrator=fp.SDEIntegrator(10, churn=churn), key=key).ys[0] for churn in (0, 0.01)
    )
    np.testing.assert_allclose(quiet, z, atol=1e-5)
    assert np.abs(noisy - z).max() > 1e-3


def test_the_closing_step_has_the_closed_form(key):
    """`u - m = alpha S C^-1 (z - alpha m)`, where `z` is the end of the ODE."""
    flow, end = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["ct sigmoid"]()), 0.6
    flow = dataclasses.replace(flow, prediction=fp.EarlyStopPrediction(flow.prediction, end))
    assert flow.span == (0, end)
    mean, covariance = exact.pushforward_moments(flow, exact.GAUSSIAN)
    alpha, sigma = float(flow.path.alpha(end)), float(flow.path.sigma(end))
    data = exact.GAUSSIAN.covariance
    gain = alpha**2 * data @ np.linalg.inv(alpha**2 * data + sigma**2 * np.eye(2))
    mean = exact.GAUSSIAN.mean + gain @ (mean - exact.GAUSSIAN.mean)
    # The span ends so early that without this evaluation the variances would be larger by 0.4.
    samples = fp.sample(flow, NUM_SAMPLES, key=key, integrator=fp.ODEIntegrator(dt0=0.05))
    assert_moments(samples, mean, gain @ covariance @ gain.T)


def test_an_early_stop_changes_nothing_else(key):
    path, inner = fp.CondOTPath(), fp.NoisePrediction()
    early = fp.EarlyStopPrediction(inner)
    z0, z1, z, output = jax.random.normal(key, (4, 2))
    for value, wanted in zip(
        early.estimate(path, 0.5, z, output, None), inner.estimate(path, 0.5, z, output, None), strict=True
    ):
        np.testing.assert_array_equal(value, wanted)
    assert early.error(path, 0.5, z0, z1, output, None) == inner.error(path, 0.5, z0, z1, output, None)
    assert early.scale(path, 0.5) == inner.scale(path, 0.5)
    assert early.span(path) == (0.01, 0.98)
    # A span that already ends earlier does not change.
    assert fp.EarlyStopPrediction(fp.TargetPrediction(), 0.995).span(fp.CondOTPath()) == (0, 0.99)
    labels = fp.EarlyStopPrediction(fp.CategoricalPrediction())
    assert labels.interface((2,), ("features", jnp.eye(3))) == ("features", (3,))


def test_joint_steps_are_equal_and_end_where_the_ode_does(key):
    """The end is `z_1 = A z_0 + m` with the gradient `A`, the root of the covariance."""
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["fm"]())
    root = exact.GAUSSIAN.axes[0] * np.sqrt(exact.GAUSSIAN.variances[0]) @ exact.GAUSSIAN.axes[0].T
    z = 2 * jax.random.normal(key, (20, 2))

    def first_coordinates(z):
        solution = jax.vmap(lambda z: fp.solve(flow, z, integrator=JOINT))(z)
        return jnp.sum(solution.ys[:, 0, 0]), solution

    gradient, joint = jax.grad(first_coordinates, has_aux=True)(z)
    # The tolerance bounds the mean error of one step. About thirty steps add up, and one example may exceed the mean.
    np.testing.assert_allclose(joint.ys[:, 0], z @ root + exact.GAUSSIAN.mean[None], atol=5e-3)
    np.testing.assert_allclose(gradient, np.tile(root[0], (20, 1)), atol=5e-3)
    each = jax.vmap(lambda z: fp.solve(flow, z, integrator=PER_EXAMPLE))(z)
    assert len(np.unique(joint.stats["num_steps"])) == 1 < len(np.unique(each.stats["num_steps"]))


def test_the_joint_norm_is_the_root_mean_square_of_all(key):
    errors = (jax.random.normal(key, (4, 3)), jnp.arange(4.0))
    alone = fp.joint_norm(jax.tree.map(lambda leaf: leaf[1], errors))
    np.testing.assert_allclose(alone, np.sqrt(np.mean(np.append(errors[0][1], errors[1][1]) ** 2)), rtol=1e-6)
    together = jax.vmap(fp.joint_norm)(errors)
    wanted = np.sqrt(np.mean(np.column_stack(errors) ** 2))
    np.testing.assert_allclose(together, np.full(4, wanted), rtol=1e-6)
    # A batch of batches counts as one batch.
    nested = jax.vmap(jax.vmap(fp.joint_norm))(jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), errors))
    np.testing.assert_allclose(nested, np.full((2, 2), wanted), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"`churn` is -1: give 0 \(the ODE\)"):
        fp.SDEIntegrator(10, churn=-1)
    with pytest.raises(ValueError, match=r"`end` is 1\.0: give a time in \(0, 1\)"):
        fp.EarlyStopPrediction(fp.TargetPrediction(), 1.0)
