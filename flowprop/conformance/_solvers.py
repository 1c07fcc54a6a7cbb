"""Checks of solvers: order of convergence, tolerance, reported number of evaluations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points
from ._exact import Exact
from ._instruments import Tally


def _error(exact: Exact, solve: Callable[..., Any], setting: Real, key: PRNGKey) -> float:
    z0 = exact.draw_noise(128, key=key)
    error = as_points("solve(z0, ...)", solve(z0, setting), z0.shape) - exact.transport(z0)
    return float(np.sqrt(np.mean(error**2)))


@checked
@dataclass(frozen=True)
class SolverHasOrder(AbstractCheck):
    """Checks that a fixed-step solver has its order of convergence: half the step divides the error by `2^order`.

    It catches a wrong stage, such as a corrector of Heun's method that uses a derivative in place of the coefficient,
    or the wrong time. Such a solver converges with first order, or not at all. For the definition of the order see
    [Hairer et al. 1993](https://doi.org/10.1007/978-3-540-78862-1), section II.1.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `solve`: the callable under test, `solve(z0, num_steps)`, from noise `(n, d)` to data coordinates `(n, d)`.
    - `order`: the order of the method: 1 for Euler, 2 for Heun and midpoint, 4 for the classical Runge-Kutta method.
    - `num_steps`: the number of steps of the coarser solve; the finer one has twice as many. The errors must stay above
      rounding errors, so use few steps for a high order. By default 32.

    ```python
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    velocity = jax.vmap(exact.velocity, (None, 0))


    def euler(z0, num_steps):
        def step(i, z):
            return z + velocity(i / num_steps, z) / num_steps

        return jax.lax.fori_loop(0, num_steps, step, z0)


    right = fp.conformance.SolverHasOrder(exact, euler, order=1)
    wrong = fp.conformance.SolverHasOrder(exact, euler, order=2)
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    exact: Exact
    solve: Callable[..., Any]
    order: int
    num_steps: int = 32

    def measure(self, *, key: PRNGKey) -> Report:
        coarse, fine = (_error(self.exact, self.solve, self.num_steps * factor, key) for factor in (1, 2))
        return self.report("order of convergence", np.log2(coarse / max(fine, 1e-12)), least=self.order - 0.4)


@checked
@dataclass(frozen=True)
class ToleranceIsHeeded(AbstractCheck):
    """Checks that an adaptive solver uses its tolerance: a tighter tolerance must reduce the error at least fourfold.

    It catches a tolerance argument that is ignored. Make one check for each solver that takes a tolerance.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `solve`: the callable under test, `solve(z0, tolerance)`, from noise `(n, d)` to data coordinates `(n, d)`.
    - `tolerances`: a loose and a tight tolerance. By default 1e-1 and 1e-5.

    ```python
    import diffrax as dfx
    import equinox as eqx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())


    @eqx.filter_jit
    def solve(z0, tolerance):
        controller = dfx.PIDController(rtol=tolerance, atol=tolerance)
        integrator = fp.ODEIntegrator(dfx.Bosh3(), controller)
        return jax.vmap(lambda z: fp.solve(flow, z, integrator=integrator).ys[-1])(z0)


    check = fp.conformance.ToleranceIsHeeded(exact, solve)
    fp.conformance.assert_conforms([check], key=jax.random.key(0))
    ```
    """

    exact: Exact
    solve: Callable[..., Any]
    tolerances: tuple[Real, Real] = (1e-1, 1e-5)

    def measure(self, *, key: PRNGKey) -> Report:
        loose, tight = (_error(self.exact, self.solve, tolerance, key) for tolerance in self.tolerances)
        return self.report(
            "error with the loose tolerance over error with the tight one", loose / max(tight, 1e-12), least=4
        )


@checked
@dataclass(frozen=True)
class EvaluationsAreCounted(AbstractCheck):
    """Checks that the reported number of function evaluations is the number of calls of the network.

    It catches a number of steps that is reported as the number of evaluations. A step has several stages, and rejected
    steps call the network too.

    **Arguments:**

    - `solve`: the callable under test, `solve(counted)`. It uses `counted(network)` in place of its network, solves for
      one example, and returns the number of evaluations that the library reports. `counted` counts the calls, also in
      compiled loops.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())


    def heun(counted, num_steps=4):
        velocity, z, h = counted(exact.velocity), jnp.zeros(2), 1 / num_steps
        for i in range(num_steps):
            slope = velocity(i * h, z)
            z = z + h / 2 * (slope + velocity((i + 1) * h, z + h * slope))
        return 2 * num_steps


    right = fp.conformance.EvaluationsAreCounted(heun)
    wrong = fp.conformance.EvaluationsAreCounted(lambda counted: heun(counted) // 2)
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    solve: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        tally = Tally()
        reported = int(np.asarray(self.solve(tally.counted)).item())
        if not tally.count:
            raise ValueError("`solve(counted)` never called `counted(network)`: use it in place of the network")
        return self.report("evaluations reported", reported, least=tally.count, most=tally.count)
