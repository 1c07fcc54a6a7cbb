"""`nn.LinearGaussian`: without a correction, the posterior of a linear-gaussian model; with one, its derivation."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import flowprop as fp


KEY = jax.random.key(0)
MATRIX = np.array([[1.0, -0.5, 0.2], [0.3, 2.0, 0.0]])
OFFSET = np.array([0.4, -3.0])


def zero(t, z, x):
    return jnp.zeros_like(z)


def test_without_a_correction_it_is_the_linear_gaussian_model(x64):
    flow = fp.fm_flow(fp.nn.LinearGaussian(zero, MATRIX, OFFSET), shape=(2,))
    x = np.asarray(jax.random.normal(KEY, (5, 3)))
    mean = x @ MATRIX.T + OFFSET
    points = mean + np.asarray(jax.random.normal(jax.random.key(1), (5, 2)))
    integrator = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-9, atol=1e-9))
    wanted = norm.logpdf(points - mean).sum(axis=1)
    np.testing.assert_allclose(fp.log_prob(flow, points, x, integrator=integrator), wanted, atol=1e-7)


def test_what_is_left_has_variance_1_at_all_times(x64):
    """The target of the inner network, `c (v - m - (2 t - 1) r / c^2)`, and its input `r / c`, if the model holds."""
    x = np.ones(3)
    mean = MATRIX @ x + OFFSET
    z0, noise = np.asarray(jax.random.normal(KEY, (2, 20_000, 2)))
    z1 = mean + noise
    for t in (0.0, 0.3, 0.5, 0.9, 1.0):
        inputs = []
        capture = fp.nn.LinearGaussian(lambda t, z, x, inputs=inputs: inputs.append(z) or 0 * z, MATRIX, OFFSET)
        z = t * z1 + (1 - t) * z0
        base = jax.vmap(lambda z, t=t, network=capture: network(t, z, x))(jnp.asarray(z))
        std = np.sqrt(t**2 + (1 - t) ** 2)
        unit = fp.nn.LinearGaussian(lambda t, z, x: jnp.ones_like(z), MATRIX, OFFSET)
        np.testing.assert_allclose(unit(t, jnp.asarray(z[0]), jnp.asarray(x)) - base[0], 1 / std, rtol=1e-12)
        # The standard error of a variance of 40,000 numbers is 0.007.
        assert abs(np.var((z1 - z0 - base) * std) - 1) < 0.03
        assert abs(np.var((z - t * mean) / std) - 1) < 0.03


def test_matrix_and_offset_are_not_trained():
    inner = fp.nn.MLP((2,), 3, width=8, depth=1, key=KEY)
    network = fp.nn.LinearGaussian(inner, MATRIX, OFFSET)
    trained = eqx.filter(network, fp.trainable(network))
    assert trained.matrix.array is None
    assert trained.offset.array is None
    assert jax.tree.leaves(trained.network)


def test_a_key_reaches_the_network():
    inner = fp.nn.ResidualMLP((2,), 3, width=8, depth=1, dropout=0.5, key=KEY)
    network = fp.nn.LinearGaussian(inner, MATRIX, OFFSET)

    def call(**options):
        return network(0.5, jnp.ones(2), jnp.ones(3), **options)

    assert np.any(call(key=jax.random.key(1)) != call(key=jax.random.key(2)))
    np.testing.assert_array_equal(call(), call())


@pytest.mark.parametrize(
    ("z", "x", "message"),
    [(jnp.ones(3), jnp.ones(3), "`z` has shape"), (jnp.ones(2), jnp.ones(2), "`x` has shape")],
)
def test_other_sizes_are_refused(z, x, message):
    with pytest.raises(ValueError, match=message):
        fp.nn.LinearGaussian(zero, MATRIX, OFFSET)(0.5, z, x)


def test_a_network_with_a_state_is_refused():
    class WithState(eqx.Module):
        has_state = True

        def __call__(self, t, z, x):
            return z

    with pytest.raises(TypeError, match="`network` has a state"):
        fp.nn.LinearGaussian(WithState(), MATRIX, OFFSET)
