"""Exact and stochastic traces of a Jacobian that is far from diagonal."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


SHAPES = [(3,), (2, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def case(shape):
    """A nonlinear field whose Jacobian is full and not symmetric, and a point."""
    size = int(np.prod(shape))
    draw = np.random.default_rng(11)
    matrix, point = jnp.asarray(draw.standard_normal((size, size))), jnp.asarray(draw.standard_normal(shape))

    def field(z):
        flat = z.ravel()
        return (jnp.tanh(matrix @ flat) + flat * jnp.roll(flat, 1) ** 2).reshape(shape)

    return field, point


def jacobian(field, z):
    return np.asarray(jax.jacfwd(field)(z)).reshape(z.size, z.size)


def all_signs(shape):
    return jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=int(np.prod(shape))))).reshape(-1, *shape)


@every_shape
def test_exact_is_the_trace_of_the_jacobian(shape, x64):
    field, z = case(shape)
    matrix = jacobian(field, z)
    # The field would not tell a trace from a sum of all entries if it were diagonal.
    assert np.max(np.abs(matrix - np.diag(np.diag(matrix)))) > 0.3
    divergence = fp.ExactDivergence()
    value, trace = divergence.value_and_divergence(field, z, divergence.tangents(z, key=None))
    np.testing.assert_array_equal(value, field(z))
    assert float(trace) == pytest.approx(np.trace(matrix), rel=1e-13)


@every_shape
def test_exact_in_single_precision(shape):
    field, z = case(shape)
    divergence = fp.ExactDivergence()
    tangents = divergence.tangents(z, key=None)
    assert tangents.dtype == z.dtype == jnp.float32
    _, trace = divergence.value_and_divergence(field, z, tangents)
    assert float(trace) == pytest.approx(np.trace(jacobian(field, z)), rel=1e-5)


@every_shape
def test_hutchinson_is_exact_over_all_signs(shape, x64):
    """The mean over every probe that can be drawn, each as likely, is the expectation."""
    field, z = case(shape)
    signs = all_signs(shape)
    value, trace = fp.HutchinsonDivergence(num_probes=len(signs)).value_and_divergence(field, z, signs)
    np.testing.assert_array_equal(value, field(z))
    assert float(trace) == pytest.approx(np.trace(jacobian(field, z)), rel=1e-12)


@every_shape
@pytest.mark.parametrize("num_probes", [1, 3, 4000])
def test_hutchinson_is_within_four_standard_errors(shape, num_probes, key, x64):
    field, z = case(shape)
    matrix = jacobian(field, z)
    signs = np.asarray(all_signs(shape)).reshape(-1, z.size)
    error = np.std(np.einsum("ni,ij,nj->n", signs, matrix, signs)) / num_probes**0.5
    divergence = fp.HutchinsonDivergence(num_probes)
    _, trace = divergence.value_and_divergence(field, z, divergence.tangents(z, key=key))
    assert abs(float(trace) - np.trace(matrix)) < 4 * error


@every_shape
def test_hutchinson_is_exact_on_a_diagonal_jacobian(shape, key, x64):
    z = case(shape)[1]
    divergence = fp.HutchinsonDivergence()
    _, trace = divergence.value_and_divergence(jnp.sin, z, divergence.tangents(z, key=key))
    assert float(trace) == pytest.approx(float(jnp.sum(jnp.cos(z))), rel=1e-13)


@every_shape
def test_probes_are_signs_that_follow_the_key(shape, key):
    z = jnp.zeros(shape)
    tangents = fp.HutchinsonDivergence(50).tangents(z, key=key)
    assert tangents.shape == (50, *shape)
    assert tangents.dtype == z.dtype
    assert set(np.unique(tangents)) == {-1.0, 1.0}
    np.testing.assert_array_equal(tangents, fp.HutchinsonDivergence(50).tangents(z, key=key))
    other = fp.HutchinsonDivergence(50).tangents(z, key=jax.random.key(1))
    assert np.any(np.asarray(tangents) != np.asarray(other))


def test_the_field_is_evaluated_once():
    calls = []

    def field(z):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(z)

    divergence = fp.ExactDivergence()
    z = jnp.ones(5)
    jax.block_until_ready(divergence.value_and_divergence(field, z, divergence.tangents(z, key=None)))
    jax.effects_barrier()
    assert len(calls) == 1


def test_no_key_is_refused():
    with pytest.raises(ValueError, match="`key` is None"):
        fp.HutchinsonDivergence().tangents(jnp.zeros(2), key=None)


@pytest.mark.parametrize("num_probes", [0, -2])
def test_no_probes_are_refused(num_probes):
    with pytest.raises(ValueError, match="`num_probes` is"):
        fp.HutchinsonDivergence(num_probes)
