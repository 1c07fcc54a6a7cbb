"""Integration against closed forms: moments, log-likelihoods, orders, counts."""

import dataclasses

import closed_forms as exact
import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_but

import flowprop as fp


TIGHT = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-10, atol=1e-10), dt0=1e-3)
SINGLE = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-6, atol=1e-6))
NUM_SAMPLES = 4_000


def over(pairs, quick=exact.PAIRS):
    """Make a test for each pair.

    `pytest -m slow` runs the pairs that are not `quick`. The pairs differ only in their fields. All fields are
    checked, by log p in this file and point by point in test_conformance.py.
    """
    return pytest.mark.parametrize("pair", all_but(quick, pairs))


each_pair = over(exact.PAIRS, ["fm", "ct narrow", "ct preconditioned", "df", "condot target"])
# A start with some data in it, an end with some noise in it, and a span that ends early.
each_kind = over(exact.PAIRS, ["fm", "ct narrow", "condot target"])
each_constructor = over(
    ["fm", "ct cosine", "ct sigmoid", "ct learnable", "ct preconditioned", "df", "condot target"], ["fm", "ct sigmoid"]
)


def assert_moments(samples, mean, covariance, sigmas=4.0, slack=0.0):
    """Sample moments within `sigmas` standard errors, computed from the samples themselves."""
    samples = np.asarray(samples, float)
    n = len(samples)
    centred = samples - samples.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    error_mean = samples.std(axis=0) / np.sqrt(n)
    error_covariance = products.std(axis=0) / np.sqrt(n)
    assert np.all(np.abs(samples.mean(axis=0) - mean) < sigmas * error_mean + slack)
    assert np.all(np.abs(products.mean(axis=0) - covariance) < sigmas * error_covariance + slack)


@each_kind
def test_ode_samples_have_the_moments_of_the_exact_pushforward(pair, key):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS[pair]())
    samples = fp.sample(flow, NUM_SAMPLES, key=key)
    mean, covariance = exact.pushforward_moments(flow, exact.GAUSSIAN)
    if flow.span[1] < 1:
        # The last evaluation of the target reduces the remaining noise: u - m is the linear
        # image of z - alpha m, here alpha S C^-1.
        alpha, sigma = (float(f(jnp.asarray(flow.span[1]))) for f in (flow.path.alpha, flow.path.sigma))
        data = exact.GAUSSIAN.covariance
        gain = alpha**2 * data @ np.linalg.inv(alpha**2 * data + sigma**2 * np.eye(2))
        mean = exact.GAUSSIAN.mean + gain @ (mean - exact.GAUSSIAN.mean)
        covariance = gain @ covariance @ gain.T
    assert_moments(samples, mean, covariance)


@each_constructor
@pytest.mark.parametrize("data", ["GAUSSIAN", "MIXTURE"])
def test_ode_and_sde_reproduce_the_moments_of_the_data(pair, data, key):
    flow = exact.exact_flow(getattr(exact, data), *exact.PAIRS[pair]())
    # Errors at the ends of the schedule: noise of variance sigma^2/alpha^2 on the data, and a
    # start at N(0, I), from which the path's marginal differs slightly.
    start, end = (jnp.asarray(t) for t in flow.span)
    left_over = float(flow.path.sigma(end) / flow.path.alpha(end)) ** 2 if flow.span[1] == 1 else 0.0
    wrong_start = 2 * float(flow.path.alpha(start)) if flow.span[0] == 0 else 0.02
    for integrator in (fp.ODEIntegrator(), fp.SDEIntegrator(100)):
        samples = fp.sample(flow, NUM_SAMPLES, key=key, integrator=integrator)
        covariance = getattr(exact, data).covariance + left_over * np.eye(2)
        # The start influences the end of the ODE, but not that of the SDE. Euler's bias at 100 steps is below 0.03.
        assert_moments(samples, getattr(exact, data).mean, covariance, slack=0.03 + wrong_start)


@pytest.mark.slow
def test_the_reverse_drift_alone_would_shrink_the_data(key):
    """Earlier implementations integrate it: N(0, 1) data then get the standard deviation alpha(0)/alpha(1)."""
    path = fp.VPPath(fp.LinearNoiseSchedule())
    standard = exact.Mixture([1.0], np.zeros((1, 2)), np.eye(2)[None])
    flow = exact.exact_flow(standard, path, fp.TargetPrediction())

    def drift_alone(t, z, x):
        return flow.velocity(t, z) - path.diffusion(t)[1] * flow.noise(t, z)

    @jax.vmap
    def wrong(z):
        return dfx.diffeqsolve(dfx.ODETerm(drift_alone), dfx.Tsit5(), 0.0, 1.0, 0.01, z).ys[0]

    z0 = jax.random.normal(key, (2_000, 2))
    deviation = np.std(wrong(z0))
    ratio = float(path.alpha(0.0) / path.alpha(1.0))
    assert abs(deviation - ratio) < 0.007  # four standard errors of a deviation of 0.1
    right = fp.sample(flow, 2_000, key=key, integrator=fp.SDEIntegrator(150))
    assert abs(np.std(right) * float(path.alpha(1.0)) - 1) < 0.05  # four standard errors, and Euler's bias


@each_pair
def test_log_prob_is_the_exact_pushforward(pair, key):
    """For a gaussian against a closed form, for a mixture against an independent method, in both precisions."""
    with jax.enable_x64(True):
        flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS[pair]())
        z = jax.random.normal(key, (20, 2))
        gaussian = exact.gaussian_log_prob(z, *exact.pushforward_moments(flow, exact.GAUSSIAN))
        value = fp.log_prob(flow, z, integrator=TIGHT)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, gaussian, atol=1e-7)
        flow = exact.exact_flow(exact.MIXTURE, *exact.PAIRS[pair]())
        mixture = exact.runge_kutta_log_prob(flow, z)
        np.testing.assert_allclose(fp.log_prob(flow, z, integrator=TIGHT), mixture, atol=1e-7)
    z = jnp.asarray(np.asarray(z), jnp.float32)
    for data, wanted in ((exact.GAUSSIAN, gaussian), (exact.MIXTURE, mixture)):
        # Some points have a log-density of -25 nats. There the default tolerance of 1e-5 leaves errors of 2e-3.
        value = fp.log_prob(exact.exact_flow(data, *exact.PAIRS[pair]()), z, integrator=SINGLE)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, atol=1e-3)


@over(["fm", "ct sigmoid"], ["fm"])
def test_hutchinson_log_prob_is_unbiased(pair, key):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS[pair]())
    z = exact.GAUSSIAN.mean[None] + jnp.ones((1, 2))
    many = jnp.broadcast_to(z, (2_000, 2))
    estimates = fp.log_prob(flow, many, key=key, divergence=fp.HutchinsonDivergence())
    wanted = exact.gaussian_log_prob(z, *exact.pushforward_moments(flow, exact.GAUSSIAN))[0]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.std(estimates) > 0.01  # without off-diagonal terms of the Jacobian this would test nothing
    assert abs(np.mean(estimates) - wanted) < 4 * error
    fewer = np.std(fp.log_prob(flow, many, key=key, divergence=fp.HutchinsonDivergence(num_probes=16)))
    # Sixteen probes reduce the standard deviation by a factor of 4; 2000 draws determine it within 2 %.
    assert abs(fewer * 4 / np.std(estimates) - 1) < 0.15


def test_the_same_key_gives_the_same_result_on_any_batch(key):
    flow = exact.exact_flow(exact.MIXTURE, *exact.PAIRS["fm"]())
    for integrator in (fp.ODEIntegrator(), fp.SDEIntegrator(20)):
        few, many = (fp.sample(flow, n, key=key, integrator=integrator) for n in (3, 7))
        # Rounding depends on the batch, and an adaptive step amplifies it up to the tolerance.
        np.testing.assert_allclose(few, many[:3], atol=2e-4)
    few, many = (fp.log_prob(flow, many[:n], key=key, divergence=fp.HutchinsonDivergence()) for n in (3, 7))
    np.testing.assert_allclose(few, many[:3], atol=2e-4)


@each_constructor
def test_forward_and_back_ends_at_the_start(pair, key, x64):
    flow = exact.exact_flow(exact.MIXTURE, *exact.PAIRS[pair]())
    z = jax.random.normal(key, (2,))
    start, end = flow.span
    forward = fp.solve(flow, z, integrator=TIGHT).ys[0]
    back = fp.solve(flow, forward, t0=end, t1=start, integrator=TIGHT).ys[0]
    assert np.linalg.norm(forward - z) > 0.1
    np.testing.assert_allclose(back, z, atol=1e-7)


# Numbers of steps at which the leading error term dominates. It is small for flow matching, whose order
# then appears as nearly 6. The cosine schedule changes fast at its end and needs fine steps.
ORDERS = [
    (dfx.Euler(), 1, "fm", 100),
    (dfx.Euler(), 1, "df cosine", 400),
    (dfx.Heun(), 2, "fm", 50),
    (dfx.Heun(), 2, "df cosine", 400),
    (dfx.Tsit5(), 5, "fm", 20),
    (dfx.Tsit5(), 5, "df cosine", 320),
]


@pytest.mark.parametrize(
    ("solver", "order", "pair", "num_steps"), all_but([case for case in ORDERS if case[2] == "fm"], ORDERS)
)
def test_solvers_have_their_order(solver, order, pair, num_steps, key, x64):
    flow = exact.exact_flow(exact.MIXTURE, *exact.PAIRS[pair]())
    z = jax.random.normal(key, (2,))
    reference = fp.solve(flow, z, integrator=fp.ODEIntegrator(dfx.Dopri8(), dt0=1e-3)).ys[0]
    steps = num_steps * np.array([1, 2, 4])
    errors = [
        np.linalg.norm(fp.solve(flow, z, integrator=fp.ODEIntegrator(solver, dt0=1 / n)).ys[0] - reference)
        for n in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.25 < slope < order + 0.9


class Counting(eqx.Module):
    """A network that counts its calls on the host."""

    network: exact.Denoiser
    count: list = eqx.field(static=True)

    def __call__(self, t, z, x=None):
        jax.debug.callback(lambda: self.count.append(None))
        return self.network(t, z, x)


SOLVERS = {
    "Euler": dfx.Euler(),
    "Heun": dfx.Heun(),
    "Midpoint": dfx.Midpoint(),
    "Ralston": dfx.Ralston(),
    "Bosh3": dfx.Bosh3(),
    "Tsit5": dfx.Tsit5(),
    "Dopri5": dfx.Dopri5(),
    "Dopri8": dfx.Dopri8(),
    "ReversibleHeun": dfx.ReversibleHeun(),
    "LeapfrogMidpoint": dfx.LeapfrogMidpoint(),
}
INTEGRATORS = {
    "default": fp.ODEIntegrator(),
    "rejecting": fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-7, atol=1e-7)),
    "rejecting the first step": fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-7, atol=1e-7), dt0=1.0),
    "told of jumps": fp.ODEIntegrator(
        stepsize_controller=dfx.ClipStepSizeController(dfx.PIDController(rtol=1e-5, atol=1e-5), jump_ts=[0.2, 0.7]),
    ),
    "Bosh3 told of a jump": fp.ODEIntegrator(
        dfx.Bosh3(), dfx.ClipStepSizeController(dfx.PIDController(rtol=1e-4, atol=1e-4), jump_ts=[0.5]), dt0=0.9
    ),
    "ReversibleHeun adaptive": fp.ODEIntegrator(dfx.ReversibleHeun(), dfx.PIDController(rtol=1e-3, atol=1e-3), dt0=1.0),
    "ReversibleHeun told of jumps": fp.ODEIntegrator(
        dfx.ReversibleHeun(),
        dfx.ClipStepSizeController(dfx.PIDController(rtol=1e-3, atol=1e-3), jump_ts=[0.2, 0.7]),
        dt0=1.0,
    ),
    "Dopri8 adaptive": fp.ODEIntegrator(dfx.Dopri8(), dfx.PIDController(rtol=1e-6, atol=1e-6)),
    **{f"{name} fixed": fp.ODEIntegrator(solver, dt0=0.1) for name, solver in SOLVERS.items()},
    "Heun on a grid": fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(jnp.linspace(0, 1, 6) ** 2)),
    "Tsit5 on a grid": fp.ODEIntegrator(dfx.Tsit5(), dfx.StepTo(jnp.linspace(0, 1, 6) ** 2)),
    "SDE Euler": fp.SDEIntegrator(10),
    "SDE Heun": fp.SDEIntegrator(10, solver=dfx.Heun()),
    "SDE EulerHeun": fp.SDEIntegrator(10, solver=dfx.EulerHeun()),
    "SDE SPaRK": fp.SDEIntegrator(10, solver=dfx.SPaRK()),
    "ancestral": fp.AncestralIntegrator(10),
}


def count_calls(integrator, key, saveat=None):
    flow = exact.exact_flow(exact.MIXTURE, *exact.PAIRS["ct narrow"]())
    flow = eqx.tree_at(lambda flow: flow.network, flow, Counting(flow.network, []))
    solution = fp.solve(flow, jnp.array([0.3, -0.8]), integrator=integrator, saveat=saveat, key=key)
    jax.effects_barrier()
    return solution, len(flow.network.count)


#: Those that count in the same way as others: without memory of the last stage, or with it.
TWINS = [f"{name} fixed" for name in ("Midpoint", "Ralston", "Bosh3", "Dopri5", "Dopri8")] + ["Heun on a grid"]


@pytest.mark.parametrize("name", all_but(INTEGRATORS.keys() - TWINS, INTEGRATORS))
def test_function_evaluations_are_the_calls_of_the_network(name, key):
    solution, calls = count_calls(INTEGRATORS[name], key)
    assert fp.function_evaluations(solution, INTEGRATORS[name]) == calls
    if name == "rejecting":
        assert solution.stats["num_rejected_steps"] > 0


def test_the_given_steps_are_taken(key):
    for dt0, calls in ((1.0, 1), (0.5, 2), (0.1, 10), (0.03, 34)):
        assert count_calls(fp.ODEIntegrator(dfx.Euler(), dt0=dt0), key)[1] == calls
    loose, tight = (
        count_calls(fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=tol, atol=tol)), key)[1]
        for tol in (1e-2, 1e-6)
    )
    assert loose < tight


def test_saved_states(key):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["fm"]())
    z, times = jnp.array([0.3, -0.8]), jnp.linspace(0, 1, 5)
    end = fp.solve(flow, z).ys[0]
    trajectory = fp.solve(flow, z, saveat=dfx.SaveAt(ts=times))
    dense = fp.solve(flow, z, saveat=dfx.SaveAt(dense=True))
    np.testing.assert_array_equal(trajectory.ts, times)
    np.testing.assert_allclose(trajectory.ys[0], z)
    np.testing.assert_allclose(trajectory.ys[-1], end, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(dense.evaluate)(times), trajectory.ys, atol=1e-4)
    assert trajectory.stats["num_accepted_steps"] == dense.stats["num_accepted_steps"]


def test_a_flow_is_a_diffrax_vector_field():
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["fm"]())
    z = jnp.array([0.3, -0.8])
    by_hand = dfx.diffeqsolve(dfx.ODETerm(flow.velocity), dfx.Heun(), 0.0, 1.0, 0.1, z, None).ys[0]
    np.testing.assert_allclose(fp.solve(flow, z, integrator=fp.ODEIntegrator(dfx.Heun(), dt0=0.1)).ys[0], by_hand)


def test_conditions_reach_each_example_of_a_batch(key):
    """A flow whose velocity is its condition moves each example by the condition of this example."""
    flow = fp.fm_flow(lambda t, z, x: x["shift"] + 0 * z, shape=(2,))
    shift = jnp.arange(6.0).reshape(3, 2)
    moved = fp.sample(flow, 3, {"shift": shift}, key=key)
    still = fp.sample(flow, 3, {"shift": jnp.zeros((3, 2))}, key=key)
    np.testing.assert_allclose(moved - still, shift, atol=1e-5)
    wanted = -0.5 * jnp.sum((moved - shift) ** 2, axis=-1) - jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(fp.log_prob(flow, moved, {"shift": shift}), wanted, atol=1e-4)


@pytest.mark.slow
def test_gradients_of_log_prob_are_the_score_of_the_pushforward(key, x64):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["ct sigmoid"]())
    z = exact.GAUSSIAN.mean[None] + jax.random.normal(key, (5, 2))
    mean, covariance = exact.pushforward_moments(flow, exact.GAUSSIAN)
    gradient = jax.grad(lambda z: fp.log_prob(flow, z, integrator=TIGHT).sum())(z)
    np.testing.assert_allclose(gradient, -np.linalg.solve(covariance, (z - mean[None]).T).T, rtol=1e-5)


def test_errors_name_the_argument_and_the_remedy(key):
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["condot target"]())
    z = jnp.zeros((3, 2))
    sde = fp.SDEIntegrator(5)
    with pytest.raises(TypeError, match="`integrator` is SDEIntegrator: a likelihood needs the ODE"):
        fp.log_prob(flow, z, integrator=sde)
    with pytest.raises(ValueError, match=r"`key` is None.*jax\.random\.key"):
        fp.log_prob(flow, z, divergence=fp.HutchinsonDivergence())
    with pytest.raises(ValueError, match="`key` is None"):
        fp.solve(flow, z[0], integrator=sde)
    with pytest.raises(ValueError, match=r"`t1` is 1.0: give a time in the flow's span \[0.0, 0.99\]"):
        fp.solve(flow, z[0], t1=1.0)
    with pytest.raises(ValueError, match="give t0 < t1"):
        fp.solve(flow, z[0], t0=0.5, t1=0.2, integrator=sde, key=key)
    with pytest.raises(ValueError, match=r"`dt0` is -0\.1"):
        fp.ODEIntegrator(dt0=-0.1)
    with pytest.raises(ValueError, match="`num_steps` is 0"):
        fp.SDEIntegrator(0)
    with pytest.raises(ValueError, match="Kvaerno5"):
        fp.function_evaluations(fp.solve(flow, z[0]), fp.ODEIntegrator(dfx.Kvaerno5()))
    with pytest.raises(ValueError, match="`x` has a leaf of shape"):
        fp.sample(flow, 3, jnp.zeros((2, 4)), key=key)
    with pytest.raises(TypeError, match=r"`key` is .* where one typed key is needed"):
        fp.sample(flow, 3, key=jax.random.split(key, 2))


def test_a_solve_that_runs_out_of_steps_fails():
    flow = exact.exact_flow(exact.GAUSSIAN, *exact.PAIRS["fm"]())
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        fp.solve(flow, jnp.zeros(2), integrator=dataclasses.replace(fp.ODEIntegrator(), max_steps=2))
