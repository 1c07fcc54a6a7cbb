"""The ancestral sampler against its formula, gaussian chains in closed form, and the ODE."""

from functools import partial

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


NUM_SAMPLES, NUM_STEPS = 4_000, 32
BIAS = 2 / NUM_STEPS
# Each case compiles a program of its own, which its tests share.
each_case = pytest.mark.parametrize(("pair", "stochasticity"), [("ct sigmoid", 1.0), ("fm", 0.5), ("ct sigmoid", 0.0)])
# Two modes far apart, with the shapes of the gaussian, so that both share their compiled programs.
MODES = exact.Mixture([0.3, 0.7], [[-2.0, 0.5], [2.0, -0.5]], exact.MIXTURE.covariances)


def flow_of(data, pair):
    return exact.exact_flow(data, *exact.PAIRS[pair]())


def coefficients(path):
    times = jnp.linspace(0.0, 1.0, NUM_STEPS + 1)
    return times, np.asarray(path.alpha(times), float), np.asarray(path.sigma(times), float)


@eqx.filter_jit
def trajectories(flow, integrator, key):
    """Each step of many paths, `(NUM_SAMPLES, NUM_STEPS + 1, 2)`, in path coordinates."""

    def one(key):
        key_noise, key_path = jax.random.split(key)
        saveat = dfx.SaveAt(t0=True, steps=True)
        return fp.solve(flow, flow.draw_noise(key=key_noise), integrator=integrator, saveat=saveat, key=key_path).ys

    return jax.vmap(one)(jax.random.split(key, NUM_SAMPLES))


def gaussian_chain(flow, stochasticity, num_steps, deviation, covariance):
    """The mean of `z - alpha m` and its covariance after the steps from t = 0 to 1.

    The exact target is `u = m + G (z - alpha m)`, `G = alpha S C^-1`, so that each step is linear.
    """
    data, times, identity = flow.network.data, jnp.linspace(0.0, 1.0, num_steps + 1), np.eye(2)
    posterior = jax.vmap(partial(flow.path.posterior, stochasticity=stochasticity))
    parts = flow.path.alpha(times)[:-1], flow.path.sigma(times)[:-1], *posterior(times[:-1], times[1:])
    for alpha, sigma, a, b, noise_std in np.stack(parts, axis=1).astype(float):
        gain = alpha * data.covariance @ np.linalg.inv(marginal(data, alpha, sigma))
        step = a * gain + b * identity
        deviation, covariance = step @ deviation, step @ covariance @ step.T + noise_std**2 * identity
    return deviation, covariance


def marginal(data, alpha, sigma):
    return alpha**2 * data.covariance + sigma**2 * np.eye(2)


@each_case
def test_every_step_is_the_formula(pair, stochasticity, key, x64):
    """`v` is the variance that is added from t back to s. The remainder of each step is independent noise."""
    flow = flow_of(MODES, pair)
    z = np.asarray(trajectories(flow, fp.AncestralIntegrator(NUM_STEPS, stochasticity=stochasticity), key))[:100]
    times, alpha, sigma = coefficients(flow.path)
    v = sigma[:-1] ** 2 - (alpha[:-1] / alpha[1:] * sigma[1:]) ** 2
    c = stochasticity**2 * v * (sigma[1:] / sigma[:-1]) ** 2
    b = np.sqrt(sigma[1:] ** 2 - c) / sigma[:-1]
    a = alpha[1:] - b * alpha[:-1]
    target = np.asarray(jax.vmap(jax.vmap(flow.target), (None, 0))(times[:-1], z[:, :-1]))
    noise = z[:, 1:] - a[:, None] * target - b[:, None] * z[:, :-1]
    # No noise for DDIM, and none in the last step of the straight path, which ends at the target.
    np.testing.assert_allclose(noise[:, c == 0], 0, atol=1e-12)
    noise = noise[:, c > 0] / np.sqrt(c[c > 0])[:, None]
    if stochasticity > 0:
        assert abs(np.mean(noise)) < 4 / np.sqrt(noise.size)
        assert abs(np.var(noise) - 1) < 4 * np.sqrt(2 / noise.size)
        assert abs(np.mean(noise[:, 1:] * noise[:, :-1])) < 4 / np.sqrt(noise.size)


@each_case
def test_samples_of_a_gaussian_are_those_of_the_chain(pair, stochasticity, key, x64):
    flow = flow_of(exact.GAUSSIAN, pair)
    z = np.asarray(trajectories(flow, fp.AncestralIntegrator(NUM_STEPS, stochasticity=stochasticity), key))[:, -1]
    _, alpha, _ = coefficients(flow.path)
    start = -alpha[0] * exact.GAUSSIAN.mean
    deviation, covariance = gaussian_chain(flow, stochasticity, NUM_STEPS, start, np.eye(2))
    variances = np.diag(covariance)
    error_mean = np.sqrt(variances / NUM_SAMPLES)
    error_covariance = np.sqrt((np.outer(variances, variances) + covariance**2) / NUM_SAMPLES)
    assert np.all(np.abs(z.mean(axis=0) - alpha[-1] * exact.GAUSSIAN.mean - deviation) < 4 * error_mean)
    assert np.all(np.abs(np.cov(z.T) - covariance) < 4 * error_covariance)


@each_case
def test_samples_of_two_modes_have_their_weights_means_and_variances(pair, stochasticity, key, x64):
    """Within four standard errors plus the bias of the steps, O(1 / num_steps)."""
    flow = flow_of(MODES, pair)
    z = trajectories(flow, fp.AncestralIntegrator(NUM_STEPS, stochasticity=stochasticity), key)[:, -1]
    z = np.asarray(z / flow.path.alpha(1.0))
    left = z[:, 0] < 0
    assert abs(left.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / NUM_SAMPLES) + BIAS
    for mode, mean, covariance in zip((z[left], z[~left]), MODES.means, MODES.covariances, strict=True):
        variances = np.diag(covariance)
        assert np.all(np.abs(mode.mean(axis=0) - mean) < 4 * np.sqrt(variances / len(mode)) + BIAS)
        assert np.all(np.abs(mode.var(axis=0) - variances) < 4 * variances * np.sqrt(2 / len(mode)) + BIAS)


@each_case
def test_the_bias_halves_with_the_step(pair, stochasticity, x64):
    """A chain that starts at the true marginal ends at it. Without noise each point ends where the ODE ends."""
    flow, data, point = flow_of(exact.GAUSSIAN, pair), exact.GAUSSIAN, np.array([0.3, -0.8])
    _, alpha, sigma = coefficients(flow.path)
    start, end = (marginal(data, alpha[i], sigma[i]) for i in (0, -1))
    values, vectors = np.linalg.eigh(data.covariance)
    stretch = np.sqrt((alpha[-1] ** 2 * values + sigma[-1] ** 2) / (alpha[0] ** 2 * values + sigma[0] ** 2))
    by_ode = vectors @ (stretch * (vectors.T @ point))
    wrong_spread, wrong_point = [], []
    for num_steps in (200, 400):
        deviation, covariance = gaussian_chain(flow, stochasticity, num_steps, point, start)
        wrong_spread.append(np.linalg.norm(covariance - end))
        wrong_point.append(np.linalg.norm(deviation - by_ode))
    assert wrong_spread[1] < 0.015
    assert 1.9 < wrong_spread[0] / wrong_spread[1] < 2.1
    assert stochasticity > 0 or 1.9 < wrong_point[0] / wrong_point[1] < 2.1


def test_without_noise_the_straight_path_is_that_of_euler(key, x64):
    """DDIM holds the estimates of target and noise fixed during a step. On the straight path Euler does the same."""
    flow = flow_of(MODES, "fm")
    ddim = trajectories(flow, fp.AncestralIntegrator(NUM_STEPS, stochasticity=0), key)
    for z in ddim[:2]:
        euler = fp.solve(flow, z[0], integrator=fp.ODEIntegrator(dfx.Euler(), dt0=1 / NUM_STEPS)).ys
        np.testing.assert_allclose(z[-1:], euler, atol=1e-12)


def test_without_noise_it_needs_no_key_and_has_a_derivative():
    """The derivative is that of Euler steps of `dz/dt = z`."""
    flow, integrator = fp.fm_flow(lambda t, z, x: z, shape=(2,)), fp.AncestralIntegrator(8, stochasticity=0)
    gradient = jax.grad(lambda z: fp.solve(flow, z, integrator=integrator).ys.sum())(jnp.ones(2))
    np.testing.assert_allclose(gradient, (1 + 1 / 8) ** 8, rtol=1e-5)


def test_samples_are_a_function_of_the_key_and_end_in_data_coordinates(key):
    """On a span that ends at 0.99, after which one evaluation of the target completes the path."""
    flow, integrator = flow_of(exact.GAUSSIAN, "condot target"), fp.AncestralIntegrator(NUM_STEPS)
    z, again, other = (
        np.asarray(fp.sample(flow, 1000, key=k, integrator=integrator)) for k in (key, key, jax.random.key(1))
    )
    np.testing.assert_array_equal(z, again)
    assert np.all(z != other)
    assert z.dtype == np.float32
    variances = np.diag(exact.GAUSSIAN.covariance)
    assert np.all(np.abs(z.mean(axis=0) - exact.GAUSSIAN.mean) < 4 * np.sqrt(variances / len(z)) + BIAS)
    assert np.all(np.abs(z.var(axis=0) - variances) < 4 * variances * np.sqrt(2 / len(z)) + BIAS)


def test_saved_states_and_number_of_calls(key):
    flow, integrator = fp.fm_flow(lambda t, z, x: z, shape=(2,)), fp.AncestralIntegrator(5)
    z, times = jnp.array([0.3, -0.8]), jnp.linspace(0, 1, 6)
    solution = fp.solve(flow, z, integrator=integrator, saveat=dfx.SaveAt(ts=times, dense=True), key=key)
    np.testing.assert_array_equal(solution.ys[0], z)
    np.testing.assert_allclose(jax.vmap(solution.evaluate)(times), solution.ys, atol=1e-6)
    assert solution.result == dfx.RESULTS.successful
    assert solution.stats["num_accepted_steps"] == fp.function_evaluations(solution, integrator) == 5


def test_errors_name_the_argument_and_the_remedy(key):
    flow, z = flow_of(exact.GAUSSIAN, "fm"), jnp.zeros(2)
    with pytest.raises(ValueError, match="`num_steps` is 0"):
        fp.AncestralIntegrator(0)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"`stochasticity` is {wrong}: give 0 \(DDIM\), 1 \(DDPM\)"):
            fp.AncestralIntegrator(stochasticity=wrong)
    with pytest.raises(ValueError, match=r"`key` is None.*jax\.random\.key"):
        fp.solve(flow, z, integrator=fp.AncestralIntegrator())
    with pytest.raises(ValueError, match="AncestralIntegrator runs from noise to data, so give t0 < t1"):
        fp.solve(flow, z, t0=0.5, t1=0.2, integrator=fp.AncestralIntegrator(), key=key)
    with pytest.raises(TypeError, match="`integrator` is AncestralIntegrator: a likelihood needs the ODE"):
        fp.log_prob(flow, z[None], integrator=fp.AncestralIntegrator(stochasticity=0))
