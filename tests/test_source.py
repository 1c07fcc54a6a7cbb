"""Flows that start from something else than gaussian noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


POINTS = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]], np.float32)


def translation(source, coupling=None):
    """Carries everything by (3, -1)."""
    return fp.fm_flow(lambda t, z, x: jnp.array([3.0, -1.0]) + 0 * z, shape=(2,), source=source, coupling=coupling)


def test_samples_start_at_rows_of_the_data(key):
    samples = fp.sample(translation(fp.EmpiricalSource(POINTS)), 3_000, key=key)
    moved = POINTS + np.array([3.0, -1.0], np.float32)
    distances = np.linalg.norm(np.asarray(samples)[:, None] - moved[None], axis=-1)
    assert distances.min(axis=1).max() < 1e-4
    # Each as likely: a third of 3,000 has a standard deviation of 26.
    np.testing.assert_allclose(np.bincount(distances.argmin(axis=1)), 1_000, atol=4 * 26)


def test_the_loss_draws_from_the_source(key):
    """Between two points the velocity is their difference, and its error 0; any other noise would show."""
    flow = fp.fm_flow(lambda t, z, x: jnp.array([2.0, 1.0]) + 0 * z, shape=(2,), source=fp.EmpiricalSource(POINTS[:1]))
    assert float(flow.loss(np.array([[3.0, 1.0]] * 5, np.float32), key=key)) == 0.0


def test_the_rows_are_not_trained():
    assert not any(jax.tree.leaves(fp.trainable(fp.EmpiricalSource(POINTS))))


def test_a_gaussian_source_is_the_default(key):
    flow = fp.fm_flow(lambda t, z, x: 0 * z, shape=(2,))
    z = jnp.array([[0.3, -1.2]])
    np.testing.assert_allclose(fp.log_prob(flow, z), jax.scipy.stats.norm.logpdf(z).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(flow.source.log_prob(z[0]), jax.scipy.stats.norm.logpdf(z[0]).sum(), rtol=1e-6)


def other_coupling():
    return fp.OTCoupling()


@pytest.mark.parametrize(
    "flow",
    [lambda: translation(fp.EmpiricalSource(POINTS)), lambda: translation(None, other_coupling())],
    ids=["source", "coupling"],
)
def test_there_is_no_score_where_noise_is_not_gaussian(flow, key):
    with pytest.raises(ValueError, match=r"of the flow is .*a score needs"):
        flow().score(0.5, jnp.zeros(2))
    for integrator in (fp.SDEIntegrator(3), fp.AncestralIntegrator(3)):
        with pytest.raises(ValueError, match="the ODE does not"):
            fp.sample(flow(), 2, key=key, integrator=integrator)


def test_errors_name_the_argument(key):
    flow = translation(fp.EmpiricalSource(POINTS))
    with pytest.raises(ValueError, match="`source` is an EmpiricalSource, which has no density"):
        fp.log_prob(flow, POINTS)
    with pytest.raises(ValueError, match="`source` is EmpiricalSource and `path` a VPPath"):
        fp.Flow(
            flow.network, fp.VPPath(fp.CosineNoiseSchedule()), fp.VelocityPrediction(), shape=(2,), source=flow.source
        )
    with pytest.raises(ValueError, match="`points` has shape"):
        fp.sample(translation(fp.EmpiricalSource(np.zeros((4, 3), np.float32))), 2, key=key)
    with pytest.raises(ValueError, match="`points` is 0"):
        fp.EmpiricalSource(np.zeros((0, 2), np.float32))
