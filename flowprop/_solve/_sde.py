"""The reverse SDE."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._flow import Flow
from .._frozen import Frozen, unfrozen
from .._types import Point, PRNGKey, Real, Time, checked
from ._integrator import AbstractIntegrator, as_times


class SDEIntegrator(AbstractIntegrator):
    """The reverse SDE `dz = (v - c g^2/(2 sigma) eps) dt + sqrt(c) g dW`, in equal steps.

    At any churn `c` its marginals are those of the ODE (Song et al. 2021, appendix D; Karras et al. 2022,
    eq. 6), so that it samples the same distribution; `g` is the path's. More churn corrects more of
    a network's earlier errors and needs finer steps; 0 leaves the ODE. It has no likelihood and
    runs towards the data only.

    **Arguments:**

    - `num_steps`: how many steps from the start of the solve to its end.
    - `churn`: `c`, the factor of `g^2`.
    - `solver`: any Diffrax SDE solver. The noise is additive, so that Ito and Stratonovich agree.

    **Raises:** `ValueError` if `num_steps` is not positive or `churn` is negative.
    """

    num_steps: int = eqx.field(static=True)
    churn: Frozen
    solver: dfx.AbstractSolver

    @checked
    def __init__(
        self,
        num_steps: int = 200,
        *,
        churn: Real | Float[Array | np.ndarray, ""] | Frozen = 1.0,
        solver: dfx.AbstractSolver | None = None,
    ) -> None:
        churn = unfrozen(churn) if isinstance(churn, Frozen) else churn
        if num_steps < 1:
            raise ValueError(f"`num_steps` is {num_steps}: give at least one step")
        if churn < 0:
            raise ValueError(f"`churn` is {churn}: give 0 (the ODE), 1 (the path's own noise) or any positive number")
        self.num_steps = num_steps
        # An array, so that another churn needs no new compilation; and no parameter of a model that holds it.
        self.churn = Frozen(jnp.asarray(churn, float))
        self.solver = dfx.Euler() if solver is None else solver

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        flow.check_gaussian("an SDE")
        if key is None:
            raise ValueError("`key` is None: an SDE draws random numbers, so give `jax.random.key(seed)`")

        def drift(t: Time, z: Point, x: PyTree) -> Point:
            estimate = flow.estimate(t, z, x)
            return estimate.velocity - churn * flow.path.diffusion(t)[1] * estimate.noise

        def diffusion(t: Time, z: Point, x: PyTree) -> lx.AbstractLinearOperator:
            return lx.IdentityLinearOperator(structure) * (jnp.sqrt(churn) * flow.path.diffusion(t)[0])

        churn = self.churn.value.astype(z.dtype)
        structure = jax.ShapeDtypeStruct(z.shape, z.dtype)
        # No step is ever rejected, so that increments need not fit into a tree.
        brownian = dfx.UnsafeBrownianPath(structure, key, _levy_area(self.solver))
        times = jnp.linspace(*as_times(t0, t1, z), self.num_steps + 1)
        return dfx.diffeqsolve(
            dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(diffusion, brownian)),
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
            adjoint=dfx.DirectAdjoint(),
        )


def _levy_area(solver: dfx.AbstractSolver) -> Any:
    if not isinstance(solver, dfx.AbstractSRK):
        return dfx.BrownianIncrement
    areas = (dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea)
    return next(area for area in areas if issubclass(area, solver.minimal_levy_area))
