"""What integrators accept: lists of times, traced settings, all kinds of solvers and controllers, and failures."""

import dataclasses
import subprocess
import sys
import textwrap

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._batch import default_batch_size
from flowprop._solve import solve_to_data


GRID = jnp.linspace(0, 1, 9) ** 2
POINT = jnp.array([0.3, -0.8])
PID = dfx.PIDController(rtol=1e-4, atol=1e-4)


class Field(eqx.Module):
    """A velocity that depends on time, so that different lists of times give different results."""

    rate: jax.Array

    def __call__(self, t, z, x):
        return self.rate * jnp.sin(3 * z + t) + t**2


def flow_of(rate=0.7):
    return fp.fm_flow(Field(jnp.asarray(rate)), shape=(2,))


def by_diffrax(flow, z, times, solver=None):
    """The end of Diffrax's own solve over exactly these times, in this order."""
    term, solver = dfx.ODETerm(flow.velocity), dfx.Heun() if solver is None else solver
    controller = dfx.StepTo(times)
    return dfx.diffeqsolve(term, solver, times[0], times[-1], None, z, stepsize_controller=controller).ys[0]


class TestGrid:
    @pytest.mark.parametrize("solver", [dfx.Heun(), dfx.Tsit5()])
    def test_is_what_diffrax_steps_to_in_both_directions(self, solver):
        flow, integrator = flow_of(), fp.ODEIntegrator(solver, dfx.StepTo(GRID))
        there = fp.solve(flow, POINT, integrator=integrator)
        back = fp.solve(flow, POINT, t0=1, t1=0, integrator=integrator)
        np.testing.assert_allclose(there.ys[0], by_diffrax(flow, POINT, GRID, solver), atol=1e-6)
        np.testing.assert_allclose(back.ys[0], by_diffrax(flow, POINT, GRID[::-1], solver), atol=1e-6)
        assert there.stats["num_steps"] == back.stats["num_steps"] == len(GRID) - 1

    def test_may_fall(self):
        rising, falling = (fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(times)) for times in (GRID, GRID[::-1]))
        ends = [fp.solve(flow_of(), POINT, integrator=integrator).ys for integrator in (rising, falling)]
        np.testing.assert_array_equal(*ends)

    @pytest.mark.parametrize(
        ("t0", "t1", "times"),
        [
            (0.1, 0.8, [0.1, 0.25, 0.5, 0.8]),
            (0.8, 0.1, [0.8, 0.5, 0.25, 0.1]),
            (0.25, 0.5, [0.25, 0.5]),
            (0.6, 0.7, [0.6, 0.7]),
        ],
    )
    def test_is_cut_to_the_solve(self, t0, t1, times):
        """Times outside of the solve are left out; its start and end are added."""
        integrator = fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(jnp.array([0, 0.25, 0.5, 1])))
        solution = fp.solve(flow_of(), POINT, t0=t0, t1=t1, integrator=integrator)
        assert solution.stats["num_steps"] == len(times) - 1
        np.testing.assert_allclose(solution.ys[0], by_diffrax(flow_of(), POINT, jnp.array(times)), atol=1e-6)

    def test_rounding_of_the_end_of_a_span_adds_no_step(self):
        """0.99 in single precision is larger than 0.99."""
        flow = fp.Flow(Field(jnp.asarray(0.7)), fp.CondOTPath(), fp.TargetPrediction(), shape=(2,))
        assert flow.span == (0, 0.99)
        for end in (np.nextafter(np.float32(0.99), 0), np.float32(0.99), np.nextafter(np.float32(0.99), 1), 1.0):
            integrator = fp.ODEIntegrator(dfx.Euler(), dfx.StepTo(jnp.array([0, 0.5, end])))
            assert fp.solve(flow, POINT, integrator=integrator).stats["num_steps"] == 2

    def test_serves_samples_and_likelihoods(self, key):
        integrator = fp.ODEIntegrator(dfx.Tsit5(), dfx.StepTo(GRID))
        flow = flow_of()
        samples, log_prob = fp.sample_and_log_prob(flow, 4, key=key, integrator=integrator)
        np.testing.assert_allclose(fp.log_prob(flow, samples, integrator=integrator), log_prob, atol=1e-4)
        estimate = fp.estimate_log_prob(flow, samples, integrator=integrator)
        assert 0 < estimate.solver_error.max() < 1e-3
        assert np.all(estimate.function_evaluations == 6 * (len(GRID) - 1) + 1)


class TestRefined:
    def test_half_the_steps_of_a_grid(self):
        finer = fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(jnp.array([0.0, 0.5, 1.0]))).refined()
        np.testing.assert_array_equal(finer.stepsize_controller.ts, [0, 0.25, 0.5, 0.75, 1])

    def test_a_tenth_of_the_tolerances_within_another_controller(self):
        controller = dfx.ClipStepSizeController(PID, jump_ts=[0.5])
        finer = fp.ODEIntegrator(dfx.Heun(), controller, dt0=0.2, max_steps=77).refined()
        assert finer.stepsize_controller.rtol == pytest.approx(1e-5)
        assert finer.stepsize_controller.atol == pytest.approx(1e-5)
        np.testing.assert_array_equal(finer.stepsize_controller.jump_ts, [0.5])
        assert (float(finer.dt0.value), finer.max_steps) == (pytest.approx(0.2), 77)

    def test_half_a_constant_step(self):
        finer = fp.ODEIntegrator(dfx.Heun(), dt0=0.1, max_steps=10).refined()
        assert (float(finer.dt0.value), finer.max_steps) == (pytest.approx(0.05), 20)

    def test_an_unknown_controller_is_refused(self):
        class Mine(dfx.ConstantStepSize):
            pass

        class Other(dfx.AbstractStepSizeController):
            def wrap(self, direction):
                return self

            def init(self, *args, **kwargs):
                raise NotImplementedError

            def adapt_step_size(self, *args, **kwargs):
                raise NotImplementedError

        assert float(fp.ODEIntegrator(dfx.Heun(), Mine(), dt0=0.5).refined().dt0.value) == 0.25
        with pytest.raises(ValueError, match="step-size controller Other, for which no finer version can be built"):
            fp.ODEIntegrator(dfx.Heun(), Other()).refined()


class TestTraced:
    def test_settings(self, key):
        flow = flow_of()
        makers = {
            "dt0": lambda value: fp.ODEIntegrator(dfx.Heun(), dt0=value),
            "churn": lambda value: fp.SDEIntegrator(5, churn=value),
            "stochasticity": lambda value: fp.AncestralIntegrator(5, stochasticity=value),
        }
        for make in makers.values():
            values = jnp.array([0.25, 0.5])
            run = lambda value, make=make: fp.solve(flow, POINT, integrator=make(value), key=key).ys[0]  # noqa: E731
            plain = np.stack([run(float(value)) for value in values])
            assert np.abs(plain[0] - plain[1]).max() > 1e-4
            np.testing.assert_allclose(jnp.stack([run(value) for value in values]), plain, atol=1e-6)
            np.testing.assert_allclose(jax.jit(run)(values[0]), plain[0], atol=1e-6)
            np.testing.assert_allclose(jax.vmap(run)(values), plain, atol=1e-6)

    def test_integrator_with_its_error_estimate(self):
        @eqx.filter_jit
        def estimate(integrator):
            return fp.estimate_log_prob(flow_of(), POINT[None], integrator=integrator).value

        integrator = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
        wanted = fp.log_prob(flow_of(), POINT[None], integrator=integrator)
        np.testing.assert_allclose(estimate(integrator), wanted, atol=1e-5)

    def test_times(self):
        """The end is `z exp(0.3 (t1 - t0))` for NumPy and JAX scalars, under `jit`, and with times for each example."""
        flow = fp.fm_flow(lambda t, z, x: 0.3 * z, shape=(2,))

        def end(t1, t0=0.0):
            return fp.solve(flow, POINT, t0=t0, t1=t1).ys[0]

        for t1 in (np.float32(0.5), np.float64(0.5), jnp.asarray(0.5)):
            np.testing.assert_allclose(end(t1), POINT * np.exp(0.15), rtol=1e-5)
        np.testing.assert_allclose(jax.jit(end)(0.5), POINT * np.exp(0.15), rtol=1e-5)
        times = jnp.array([0.2, 0.5, 0.9])
        wanted = POINT[None] * np.exp(0.3 * (0.5 - np.asarray(times)))[:, None]
        np.testing.assert_allclose(jax.vmap(end, in_axes=(None, 0))(0.5, times), wanted, rtol=1e-5)
        with pytest.raises(eqx.EquinoxRuntimeError, match="`t1` is outside of the flow's span"):
            eqx.filter_jit(end)(jnp.asarray(1.5))

    def test_times_of_an_integrator_that_runs_forwards(self, key):
        def end(t0):
            return fp.solve(flow_of(), POINT, t0=t0, t1=0.5, integrator=fp.SDEIntegrator(3), key=key).ys[0]

        np.testing.assert_allclose(jax.jit(end)(0.1), end(0.1), atol=1e-6)
        with pytest.raises(eqx.EquinoxRuntimeError, match="SDEIntegrator runs from noise to data"):
            eqx.filter_jit(end)(jnp.asarray(0.7))


REFUSED = {
    "ten steps": (
        lambda: fp.ODEIntegrator(dt0=10),
        "`dt0` is 10: give a step above 0 and at most 1; dt0=0.1 takes ten steps",
    ),
    "dt0 nan": (lambda: fp.ODEIntegrator(dt0=float("nan")), "`dt0` is nan"),
    "dt0 inf": (lambda: fp.ODEIntegrator(dt0=float("inf")), "`dt0` is inf"),
    "dt0 array": (lambda: fp.ODEIntegrator(dt0=jnp.asarray(-1.0)), r"`dt0` is -1\.0"),
    "dt0 and a grid": (lambda: fp.ODEIntegrator(None, dfx.StepTo(GRID), dt0=0.1), "`dt0` is 0.1, but"),
    "max_steps": (lambda: fp.ODEIntegrator(max_steps=0), "`max_steps` is 0"),
    "churn": (lambda: fp.SDEIntegrator(churn=float("nan")), "`churn` is nan"),
    "stochasticity": (lambda: fp.AncestralIntegrator(stochasticity=float("nan")), "`stochasticity` is nan"),
    "no error": (lambda: fp.ODEIntegrator(dfx.Euler(), PID), "`solver` is Euler, which has no error estimate"),
    "no error by default": (lambda: fp.ODEIntegrator(dfx.Euler()), "constant steps, such as dt0=0.1"),
    "SDE solver": (lambda: fp.ODEIntegrator(dfx.ShARK(), dt0=0.1), "`solver` is ShARK, which does not solve an ODE"),
    "Ito solver": (lambda: fp.ODEIntegrator(dfx.EulerHeun(), dt0=0.1), "`solver` is EulerHeun"),
    "symplectic": (lambda: fp.ODEIntegrator(dfx.SemiImplicitEuler(), dt0=0.1), "`solver` is SemiImplicitEuler"),
    "disorder": (lambda: fp.ODEIntegrator(None, dfx.StepTo(jnp.array([0, 0.7, 0.5, 1]))), "neither rise nor fall"),
    "steps, not times": (lambda: fp.ODEIntegrator(None, dfx.StepTo(jnp.arange(5))), r"`ts` from 0 to 4.*in \[0, 1\]"),
    "point": (lambda: fp.solve(flow_of(), jnp.array([0.0, jnp.nan])), "`z` contains 1 numbers that are not finite"),
    "time": (lambda: fp.solve(flow_of(), POINT, t1=float("nan")), r"`t1` is nan: .*span \[0\.0, 1\.0\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_raise_an_error_in_the_constructor(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("solver", [dfx.Heun(), dfx.Tsit5(), dfx.Kvaerno5(), dfx.Dopri8(), dfx.HalfSolver(dfx.Euler())])
def test_solvers_of_odes_are_accepted(solver):
    fp.ODEIntegrator(solver)


def test_a_solve_may_fail_without_an_error(key):
    flow, short = flow_of(), fp.ODEIntegrator(max_steps=1)
    solution = fp.solve(flow, POINT, integrator=short, throw=False)
    assert solution.result == dfx.RESULTS.max_steps_reached
    with pytest.raises(eqx.EquinoxRuntimeError):
        fp.solve(flow, POINT, integrator=short)
    for integrator, wanted in (
        (short, False),
        (fp.ODEIntegrator(), True),
        (fp.SDEIntegrator(3), True),
        (fp.AncestralIntegrator(3), True),
    ):
        point, good = solve_to_data(flow, POINT, None, integrator, key)
        assert point.shape == (2,)
        assert bool(good) is wanted


def test_an_event_stops_a_solve():
    flow = fp.fm_flow(lambda t, z, x: jnp.ones_like(z), shape=(2,))
    event = dfx.Event(lambda t, y, args, **kwargs: y[0] > 0.55)
    integrator = fp.ODEIntegrator(dfx.Euler(), dt0=0.1, event=event, progress_meter=dfx.TextProgressMeter())
    solution = fp.solve(flow, jnp.zeros(2), integrator=integrator)
    assert solution.result == dfx.RESULTS.event_occurred
    np.testing.assert_allclose(solution.ys[0], 0.6, atol=1e-6)
    assert not solve_to_data(flow, jnp.zeros(2), None, integrator, None)[1]
    assert solve_to_data(flow, -jnp.ones(2), None, integrator, None)[1]


def test_settings_survive_a_change_of_one():
    for integrator in (fp.ODEIntegrator(dfx.Heun(), dfx.StepTo(GRID)), fp.ODEIntegrator(dt0=0.1)):
        changed = dataclasses.replace(integrator, max_steps=9)
        assert eqx.tree_equal(dataclasses.replace(changed, max_steps=integrator.max_steps), integrator)


def test_products_of_a_solve_are_precise():
    flow = fp.fm_flow(lambda t, z, x: jnp.eye(2) @ z, shape=(2,))
    found = str(jax.make_jaxpr(lambda z: fp.log_prob(flow, z))(POINT[None]))
    assert found.count("dot_general") == found.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0


@pytest.mark.parametrize("wide", ["network", "point"])
def test_a_solve_has_the_precision_of_its_widest_part(wide, x64):
    types = dict.fromkeys(("network", "point"), jnp.float32) | {wide: jnp.float64}
    flow = fp.fm_flow(Field(jnp.asarray(0.7, types["network"])), shape=(2,))
    assert fp.solve(flow, POINT.astype(types["point"])).ys.dtype == jnp.float64


class TenSteps(fp.AbstractODEIntegrator):
    """Explicit midpoint steps, written by a user of the library."""

    num_steps: int = 10
    solver: dfx.AbstractSolver = dfx.Midpoint()

    def integrate_field(self, field, y, args, t0, t1, saveat=None, *, throw=True):
        saveat = dfx.SaveAt(t1=True) if saveat is None else saveat
        t0, t1 = jnp.asarray(t0), jnp.asarray(t1)
        term, step = dfx.ODETerm(field), (t1 - t0) / self.num_steps
        return dfx.diffeqsolve(term, self.solver, t0, t1, step, y, args, saveat=saveat, throw=throw)

    def refined(self):
        return TenSteps(2 * self.num_steps)


def test_an_integrator_of_the_user():
    flow, ours = flow_of(), fp.ODEIntegrator(dfx.Midpoint(), dt0=0.1)
    for t0, t1 in ((0, 1), (1, 0)):
        ends = [fp.solve(flow, POINT, t0=t0, t1=t1, integrator=i).ys for i in (TenSteps(), ours)]
        np.testing.assert_allclose(*ends, atol=1e-6)
    energies = [fp.metrics.path_energy(flow, POINT[None], integrator=integrator) for integrator in (TenSteps(), ours)]
    np.testing.assert_allclose(*energies, atol=1e-6)


def test_large_examples_are_solved_in_smaller_batches():
    """On a CPU 1,024 at once, or fewer that hold 2^24 numbers: 334 images of 784 pixels with 64 products each."""
    assert [default_batch_size(numbers) for numbers in (1, 2**14, 2**15, 64 * 784, 2**30)] == [1024, 1024, 512, 334, 1]


@pytest.mark.slow
def test_a_mesh_with_explicit_axes():
    """The default of `jax.make_mesh`, in a separate process with two simulated devices."""
    program = """
    import jax, jax.numpy as jnp, numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    from jax.sharding import NamedSharding, PartitionSpec as P
    import flowprop as fp

    flow = fp.fm_flow(fp.nn.MLP((2,), width=8, depth=1, key=jax.random.key(0)), shape=(2,))
    z = jax.random.normal(jax.random.key(1), (8, 2))
    wanted = fp.metrics.path_energy(flow, z)
    mesh = jax.make_mesh((2,), ("i",))
    assert all(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)
    spread, everywhere = (NamedSharding(mesh, spec) for spec in (P("i"), P()))
    points = jax.device_put(z, spread)
    copies = jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere) if isinstance(leaf, jax.Array) else leaf, flow)
    for model in (flow, copies):
        for batch_size in (None, 4):
            found = fp.metrics.path_energy(model, points, batch_size=batch_size)
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    with jax.set_mesh(mesh):
        found = fp.metrics.path_energy(flow, points)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found.sharding.spec == P("i"), found.sharding
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
