"""The reverse SDE."""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from .._flow.flow import Flow
from .._flow.noise import check_gaussian
from .._frozen import Frozen
from .._types import Number, Point, PRNGKey, Scalar, Time, check_number, check_positive, checked
from .brownian import Increments
from .integrator import AbstractIntegrator, as_times


class SDEIntegrator(AbstractIntegrator):
    """The reverse SDE `dz = (v - c g^2/(2 sigma) eps) dt + sqrt(c) g dW`, with equal steps.

    `c` is the churn (stochasticity), `g` the path's diffusion coefficient, and `eps` the estimated noise. For every `c`
    the SDE has the same marginals as the ODE ([Song et al. 2021](https://arxiv.org/abs/2011.13456), appendix D;
    [Karras et al. 2022](https://arxiv.org/abs/2206.00364), eq. 6), so that it samples the same distribution.
    With more churn later steps correct more of the network's earlier errors, but the steps must be finer. With
    `churn=0` the SDE becomes the ODE.

    The SDE has no likelihood and runs only from noise to data. Its samples have gradients at a fixed key.

    **Arguments:**

    - `num_steps`: how many steps to take from the start of the solve to its end. By default 200.
    - `churn`: `c`, the factor of `g^2`, 0 or more. It may be traced. By default 1.
    - `solver`: any Diffrax solver of SDEs. By default `dfx.Euler()`. The noise is additive, so that the Ito and the
      Stratonovich interpretation agree.
    - `adjoint`: how Diffrax differentiates a solve. By default `dfx.RecursiveCheckpointAdjoint()`, for reverse-mode
      gradients.
    - `progress_meter`: shows the progress of a solve; `dfx.TextProgressMeter()` prints it. By default none.

    **Raises:** `ValueError` if `num_steps` is not positive, or if `churn` is negative or not finite.

    ```python
    import jax
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,))
    integrator = fp.SDEIntegrator(10, churn=0.5)
    samples = fp.sample(flow, 5, key=jax.random.key(0), integrator=integrator)
    print(samples.shape)  # (5, 2)
    ```
    """

    runs_backwards: ClassVar[bool] = False
    has_likelihood: ClassVar[bool] = False

    num_steps: int = eqx.field(static=True)
    churn: Frozen
    solver: dfx.AbstractSolver
    adjoint: dfx.AbstractAdjoint
    progress_meter: dfx.AbstractProgressMeter

    @checked
    def __init__(
        self,
        num_steps: int = 200,
        *,
        churn: Number | Frozen = 1.0,
        solver: dfx.AbstractSolver | None = None,
        adjoint: dfx.AbstractAdjoint | None = None,
        progress_meter: dfx.AbstractProgressMeter | None = None,
    ) -> None:
        factor = churn.value if isinstance(churn, Frozen) else churn
        check_positive(num_steps=num_steps)
        remedy = "give 0 (the ODE), 1 (the path's own noise) or any positive number"
        check_number("churn", factor, at_least=0, remedy=remedy)
        self.num_steps = num_steps
        # An array, so that another value needs no new compilation; `Frozen`, so that no training changes it.
        self.churn = Frozen(jnp.asarray(factor, float))
        self.solver = dfx.Euler() if solver is None else solver
        self.adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
        self.progress_meter = dfx.NoProgressMeter() if progress_meter is None else progress_meter

    def integrate(
        self,
        flow: Flow,
        z: Point,
        x: PyTree,
        t0: Time,
        t1: Time,
        saveat: dfx.SaveAt,
        key: PRNGKey | None,
        *,
        throw: bool = True,
    ) -> dfx.Solution:
        """Solve one example from `t0` to `t1`.

        **Arguments:**

        - `flow`: the flow.
        - `z`: the point at `t0` in path coordinates, of the flow's `shape`.
        - `x`: the condition in the form that the network takes, after the flow's encoder.
        - `t0`, `t1`: the times of start and end, numbers or scalar arrays.
        - `saveat`: which states to save.
        - `key`: the random key.
        - `throw`: whether a solve that fails raises an error. If not, the `result` of the solution says whether it
          failed. By default `True`.

        **Returns:** Diffrax's solution.

        **Raises:** `ValueError` if the noise of the flow is not gaussian given the data, or if `key` is `None`.
        """
        check_gaussian(flow, "an SDE")
        if key is None:
            raise ValueError("`key` is None: an SDE draws random numbers, so give `jax.random.key(seed)`")
        churn = self.churn.value.astype(z.dtype)
        times = jnp.linspace(*as_times(t0, t1, z), self.num_steps + 1)
        noise = dfx.ControlTerm(_Diffusion(flow, churn), Increments(z, key, _levy_area(self.solver)))
        return dfx.diffeqsolve(
            dfx.MultiTerm(dfx.ODETerm(_Drift(flow, churn)), noise),
            self.solver,
            times[0],
            times[-1],
            None,
            z,
            x,
            saveat=saveat,
            # Not a constant step size: rounding of the summed steps would sometimes add one more step.
            stepsize_controller=dfx.StepTo(ts=times),
            max_steps=self.num_steps,
            adjoint=self.adjoint,
            progress_meter=self.progress_meter,
            throw=throw,
        )


class _Drift(eqx.Module):
    flow: Flow
    churn: Scalar

    def __call__(self, t: Time, z: Point, x: PyTree) -> Point:
        estimate = self.flow.estimate(t, z, x)
        return estimate.velocity - self.churn * self.flow.path.diffusion(t)[1] * estimate.noise


class _Diffusion(eqx.Module):
    flow: Flow
    churn: Scalar

    def __call__(self, t: Time, z: Point, x: PyTree) -> lx.AbstractLinearOperator:
        identity = lx.IdentityLinearOperator(jax.ShapeDtypeStruct(z.shape, z.dtype))
        return identity * (jnp.sqrt(self.churn) * self.flow.path.diffusion(t)[0])


def _levy_area(solver: dfx.AbstractSolver) -> Any:
    if not isinstance(solver, dfx.AbstractSRK):
        return dfx.BrownianIncrement
    areas = (dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea)
    return next(area for area in areas if issubclass(area, solver.minimal_levy_area))
