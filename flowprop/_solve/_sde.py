"""The reverse SDE."""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from .._flow import Flow
from .._frozen import Frozen
from .._types import Number, Point, PRNGKey, Scalar, Time, check_number, check_positive, checked
from ._brownian import Increments
from ._integrator import AbstractIntegrator, as_times


class SDEIntegrator(AbstractIntegrator):
    """The reverse SDE `dz = (v - c g^2/(2 sigma) eps) dt + sqrt(c) g dW`, in equal steps.

    At any churn `c` its marginals are those of the ODE (Song et al. 2021, appendix D; Karras et al. 2022,
    eq. 6), so that it samples the same distribution; `g` is the path's. More churn corrects more of
    a network's earlier errors and needs finer steps; 0 leaves the ODE. It has no likelihood and
    runs towards the data only. Its samples have gradients, at fixed keys.

    **Arguments:**

    - `num_steps`: how many steps from the start of the solve to its end.
    - `churn`: `c`, the factor of `g^2`, 0 or more; may be traced.
    - `solver`: any Diffrax solver of SDEs. By default `dfx.Euler()`. The noise is additive, so that Ito and
      Stratonovich agree.
    - `adjoint`: how a solve is differentiated. By default `dfx.RecursiveCheckpointAdjoint()`, for gradients.
    - `progress_meter`: by default none; `dfx.TextProgressMeter()` prints how far a solve has come.

    **Raises:** `ValueError` if `num_steps` is not positive or `churn` is negative or not finite.

    ```python
    import flowprop as fp

    integrator = fp.SDEIntegrator(100, churn=0.5)
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
        # An array, so that another churn needs no new compilation; and no parameter of a model that holds it.
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
        """One example's solution from `t0` to `t1`."""
        flow.check_gaussian("an SDE")
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
            # Adding up equal steps would, by rounding, now and then need one more.
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
