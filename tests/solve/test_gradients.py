"""First and second derivatives of log p in the data, the condition and the parameters, with every adjoint.

The data are N(A x, S) under a denoiser that knows A, x and S, so that log p is a quadratic form.
"""

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from cases import all_but

import flowprop as fp


POINTS = np.array([[0.3, -0.5], [1.1, 0.4], [-0.8, 0.2]])
CONDITIONS = np.array([[0.2, 0.5], [-0.4, 0.3], [0.6, -0.1]])
MATRIX = np.array([[0.7, 0.2], [-0.3, 0.5]])
COVARIANCE = exact.GAUSSIAN.covariance

ADJOINTS = {
    "recursive checkpoints": dfx.RecursiveCheckpointAdjoint(),
    "direct": dfx.DirectAdjoint(),
    "backsolve": dfx.BacksolveAdjoint(),
}


class Denoiser(eqx.Module):
    """The velocity of flow matching for the data N(A x, S)."""

    matrix: jax.Array

    def __call__(self, t, z, x):
        mean, covariance = self.matrix @ x, jnp.asarray(COVARIANCE, z.dtype)
        marginal = t**2 * covariance + (1 - t) ** 2 * jnp.eye(2, dtype=z.dtype)
        residual = jnp.linalg.solve(marginal, z - t * mean)
        return mean + t * covariance @ residual - (1 - t) * residual


class Linear(eqx.Module):
    """`v = M z`."""

    matrix: jax.Array

    def __call__(self, t, z, x):
        return self.matrix @ z


def integrator(adjoint, tolerance=1e-8, **options):
    controller = dfx.PIDController(rtol=tolerance, atol=tolerance)
    return fp.ODEIntegrator(stepsize_controller=controller, adjoint=adjoint, max_steps=256, **options)


def log_probs(matrix, z, x, ode):
    return fp.log_prob(fp.fm_flow(Denoiser(matrix), shape=(2,)), z, x, integrator=ode)


def closed_form(matrix, z, x):
    residual = z - x @ matrix.T
    return -0.5 * jnp.einsum("ni,ij,nj->n", residual, jnp.linalg.inv(jnp.asarray(COVARIANCE)), residual)


@pytest.mark.parametrize("name", all_but(["recursive checkpoints"], ADJOINTS))
def test_first_derivatives(name, x64):
    """All three at once, within 1e-6 of the largest derivative, at tolerances of 1e-8."""
    ode = integrator(ADJOINTS[name])
    arguments = [jnp.asarray(array) for array in (MATRIX, POINTS, CONDITIONS)]
    _, found = jax.jit(jax.value_and_grad(lambda *arguments: jnp.sum(log_probs(*arguments, ode)), argnums=(0, 1, 2)))(
        *arguments
    )
    wanted = jax.jit(jax.grad(lambda *arguments: jnp.sum(closed_form(*arguments)), argnums=(0, 1, 2)))(*arguments)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("name", all_but(["recursive checkpoints"], ADJOINTS))
def test_a_divergence_that_does_not_depend_on_the_example_has_the_right_gradient(name, x64):
    """For v = M z, `-div v` is the same at every point, so that only the start of the integral can make it batched.

    `log p(z) = log N(e^(-M) z; 0, I) - tr M`.
    """
    matrix, z = 0.3 * jnp.asarray(MATRIX), jnp.asarray(POINTS)
    ode = integrator(ADJOINTS[name])

    def found(matrix):
        return jnp.mean(fp.log_prob(fp.fm_flow(Linear(matrix), shape=(2,)), z, integrator=ode))

    def wanted(matrix):
        start = z @ jax.scipy.linalg.expm(-matrix).T
        return jnp.mean(-0.5 * jnp.sum(start**2, axis=1)) - jnp.trace(matrix)

    np.testing.assert_allclose(jax.jit(jax.grad(found))(matrix), jax.jit(jax.grad(wanted))(matrix), atol=1e-6)


def test_second_derivatives_by_vmap_adaptive_steps_and_the_direct_adjoint(x64):
    """A report says that this combination is wrong. It is right in data, condition, parameters, and mixed."""
    ode = integrator(dfx.DirectAdjoint(), 1e-7)
    arguments = [jnp.asarray(array) for array in (MATRIX, POINTS, CONDITIONS)]
    found = jax.jit(jax.hessian(lambda *arguments: jnp.sum(log_probs(*arguments, ode)), argnums=(0, 1, 2)))(*arguments)
    wanted = jax.jit(jax.hessian(lambda *arguments: jnp.sum(closed_form(*arguments)), argnums=(0, 1, 2)))(*arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.max(jnp.abs(b))))
    # The second derivatives between different examples are 0, although the examples share a loop.
    across = np.asarray(found[1][1])[0, :, 1, :]
    np.testing.assert_array_equal(across, 0.0)


def test_second_derivatives_in_single_precision():
    """At the default tolerances, within 1e-3 of the largest derivative."""
    ode = fp.ODEIntegrator(adjoint=dfx.DirectAdjoint(), max_steps=64)
    z, x = jnp.asarray(POINTS, jnp.float32), jnp.asarray(CONDITIONS, jnp.float32)
    matrix = jnp.asarray(MATRIX, jnp.float32)
    found = jax.jit(jax.hessian(lambda z: jnp.sum(log_probs(matrix, z, x, ode))))(z)
    wanted = -np.linalg.inv(COVARIANCE)
    for index in range(3):
        np.testing.assert_allclose(found[index, :, index], wanted, atol=1e-3 * np.abs(wanted).max())


RANDOM = {
    "SDE Euler": fp.SDEIntegrator(6),
    "SDE Heun, more churn": fp.SDEIntegrator(6, churn=2.0, solver=dfx.Heun()),
    "SDE ShARK": fp.SDEIntegrator(6, solver=dfx.ShARK()),
    "SDE SlowRK": fp.SDEIntegrator(6, solver=dfx.SlowRK()),
    "ancestral": fp.AncestralIntegrator(6, stochasticity=1.0),
    "SDE, direct": fp.SDEIntegrator(6, adjoint=dfx.DirectAdjoint()),
}


@pytest.mark.parametrize("name", all_but(["SDE ShARK", "ancestral"], RANDOM))
def test_random_samplers_have_gradients(name, key, x64):
    """In the start and the parameters at one key, within 1e-6 of the largest, against central differences."""
    integrator, x = RANDOM[name], jnp.asarray(CONDITIONS[0])

    @jax.jit
    def end(matrix, z):
        flow = fp.fm_flow(Denoiser(matrix), shape=(2,))
        return jnp.sum(jnp.sin(fp.solve(flow, z, x, t1=0.9, integrator=integrator, key=key).ys))

    arguments = [jnp.asarray(MATRIX), jnp.asarray(POINTS[0])]
    found = jax.jit(jax.grad(end, argnums=(0, 1)))(*arguments)
    step = 1e-5
    for index, argument in enumerate(arguments):
        differences = []
        for unit in np.eye(argument.size).reshape(-1, *argument.shape):
            ends = [end(*arguments[:index], argument + s * unit, *arguments[index + 1 :]) for s in (step, -step)]
            differences.append(float(ends[0] - ends[1]) / (2 * step))
        differences = np.reshape(differences, argument.shape)
        np.testing.assert_allclose(found[index], differences, atol=1e-6 * np.abs(differences).max())


def test_gradients_of_random_samples_in_a_batch(key):
    """Each example gets its own share of the gradient of the mean. In single precision."""
    flow, integrator = fp.fm_flow(Linear(0.3 * jnp.asarray(MATRIX, jnp.float32)), shape=(2,)), fp.SDEIntegrator(8)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(flow, keys):
        def one(key):
            return fp.solve(flow, jnp.ones(2), integrator=integrator, key=key, t1=0.9).ys

        return jnp.mean(jax.vmap(one)(keys))

    keys = jax.random.split(key, 3)
    each = np.stack([gradient(flow, keys[index : index + 1]).network.matrix for index in range(3)])
    np.testing.assert_allclose(gradient(flow, keys).network.matrix, each.mean(axis=0), atol=1e-5)


def test_forward_mode_names_its_remedy():
    flow, z = fp.fm_flow(Linear(0.3 * jnp.asarray(MATRIX, jnp.float32)), shape=(2,)), jnp.ones(2)
    for derivative in (jax.jacfwd, jax.hessian):
        with pytest.raises(TypeError, match=r"fp\.ODEIntegrator\(adjoint=dfx\.DirectAdjoint\(\)\)"):
            derivative(lambda z: jnp.sum(fp.solve(flow, z).ys ** 2))(z)
    ode = fp.ODEIntegrator(adjoint=dfx.DirectAdjoint(), max_steps=64)
    found = jax.jit(jax.hessian(lambda z: jnp.sum(fp.solve(flow, z, integrator=ode).ys ** 2)))(z)
    end = scipy.linalg.expm(0.3 * MATRIX)
    np.testing.assert_allclose(found, 2 * end.T @ end, atol=1e-3)
