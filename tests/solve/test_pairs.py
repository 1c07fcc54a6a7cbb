"""Pairs against the closed form of a gaussian's ODE, `z_1 = A z_0 + m`, and of the straight paths between them."""

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


MEAN = jnp.array(exact.GAUSSIAN.mean, jnp.float32)
# On CondOT the marginal goes from N(0, I) to N(m, S), and A is the root of S.
AXES, SCALES = (
    jnp.array(exact.GAUSSIAN.axes[0], jnp.float32),
    jnp.array(exact.GAUSSIAN.variances[0] ** 0.5, jnp.float32),
)
MATRIX = AXES * SCALES[None] @ AXES.T


class Straight(eqx.Module):
    """The velocity `z_1 - z_0` of the line through `z` at `t`."""

    def __call__(self, t, z, x):
        z0 = AXES @ (AXES.T @ (z - t * MEAN) / (1 - t + t * SCALES))
        return MATRIX @ z0 + MEAN - z0


class AtTheStart(eqx.Module):
    """The velocity of `Straight` at t = 0, for every t."""

    def __call__(self, t, z, x):
        return MATRIX @ z + MEAN - z


FIXED = fp.ODEIntegrator(dt0=0.1)
EULER = fp.ODEIntegrator(dfx.Euler(), dt0=0.5)


@eqx.filter_jit
def paired_loss(flow, *batch, key):
    return fp.PairedFlow(flow).loss(*batch, key=key)


def curved(time_sampling=None):
    path, prediction = exact.PAIRS["fm"]()
    network = exact.Denoiser(exact.GAUSSIAN, path, prediction)
    return fp.fm_flow(network, shape=(2,), time_sampling=time_sampling)


def pairs(n, key):
    z0 = jax.random.normal(key, (n, 2))
    return z0, z0 @ MATRIX + MEAN[None]


def test_the_ode_connects_the_pairs(key):
    z0, z1 = fp.reflow_pairs(curved(), 7, key=key, integrator=FIXED, batch_size=4)
    np.testing.assert_allclose(z1, z0 @ MATRIX + MEAN[None], atol=1e-4)
    np.testing.assert_allclose(z1, fp.sample(curved(), 9, key=key, integrator=FIXED)[:7], rtol=1e-5)
    # The noise is that of the source, also if the span does not begin at 0.
    late = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["condot noise"]())
    assert late.span[0] > 0
    np.testing.assert_allclose(z0, fp.reflow_pairs(late, 7, key=key, integrator=EULER)[0], rtol=1e-6)


def test_conditions_go_with_their_pairs(key):
    flow = fp.fm_flow(lambda t, z, x: x + 0 * z, shape=(2,))
    shift = jnp.arange(6.0).reshape(3, 2)
    z0, z1 = fp.reflow_pairs(flow, 3, shift, key=key, integrator=EULER)
    np.testing.assert_allclose(z1 - z0, shift, atol=1e-6)
    assert paired_loss(flow, z0, z1, shift, key=key) < 1e-10
    assert paired_loss(flow, z0, z1, shift[::-1], key=key) > 1


def test_straight_paths_have_no_loss_and_need_one_step(key):
    z0, z1 = pairs(100, key)
    straight = fp.fm_flow(Straight(), shape=(2,))
    assert paired_loss(straight, z0, z1, key=key) < 1e-10
    assert paired_loss(curved(), z0, z1, key=key) > 0.01
    for flow, misses in ((straight, False), (curved(), True)):
        end = z0 + jax.vmap(lambda z, f=flow: f.estimate(0.0, z).velocity)(z0)
        assert (np.abs(end - z1).max() > 0.1) == misses


def test_one_step_is_trained_only_at_the_start(key):
    """The velocity there is `E[z_1 - z_0 | z_0] = (A - I) z_0 + m`. Later velocities do not enter the loss."""
    z0, z1 = pairs(100, key)
    flow = fp.fm_flow(AtTheStart(), shape=(2,), time_sampling=fp.GridTimeSampling(1))
    assert paired_loss(flow, z0, z1, key=key) < 1e-10
    assert paired_loss(fp.fm_flow(AtTheStart(), shape=(2,)), z0, z1, key=key) > 0.01


def test_independent_pairs_have_the_loss_of_the_flow(key):
    """Only the expectations agree, because the loss of the flow draws its own noise."""
    noise, data, key = *jax.random.split(key), jax.random.key(1)
    z1 = jax.random.normal(data, (20_000, 2)) @ MATRIX + MEAN[None]
    paired = paired_loss(curved(), jax.random.normal(noise, z1.shape), z1, key=key)
    np.testing.assert_allclose(paired, curved().loss(z1, key=key), rtol=0.05)


@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_grid_times_are_the_steps_of_euler(num_steps, key):
    times = fp.GridTimeSampling(num_steps).sample(24 * 8, key=key)
    values, counts = np.unique(times, return_counts=True)
    np.testing.assert_allclose(values, np.arange(num_steps) / num_steps, rtol=1e-6)
    np.testing.assert_array_equal(counts, 24 * 8 // num_steps)


def test_errors(key):
    flow, z = curved(), np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"`z0` has shape \(2, 2\).*one row of noise for each row of `z1`"):
        fp.PairedFlow(flow).loss(z[:2], z, key=key)
    with pytest.raises(ValueError, match="`num_pairs` is 0"):
        fp.reflow_pairs(flow, 0, key=key)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        fp.reflow_pairs(flow, 3, key=key, batch_size=0)
    with pytest.raises(ValueError, match="`num_steps` is 0"):
        fp.GridTimeSampling(0)
