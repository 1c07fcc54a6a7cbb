"""The ancestral sampler."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._flow import Flow
from .._types import Point, PRNGKey, Real, Scalar, Time, check_positive, checked
from ._integrator import AbstractIntegrator, as_times


_Coefficients = tuple[Scalar, Scalar, Point | Scalar]


class AncestralIntegrator(AbstractIntegrator):
    """The ancestral sampler `z_t = a u + b z_s + sqrt(c) eps`, in equal steps.

    Each step draws from the path's posterior given the estimated target `u`
    ([`flowprop.AbstractPath.posterior`][]): at `stochasticity` 1 this is DDPM's sampler (Ho et al. 2020,
    algorithm 2) and NoProp's (eq. 6). At 0 it is DDIM's (Song, Meng & Ermon 2021, eq. 12), which tends to
    the ODE, needs no key and can be differentiated. Where the target is exact, small steps give every one
    of them the ODE's marginals. It has no likelihood and runs towards the data only.

    **Arguments:**

    - `num_steps`: how many steps from the start of the solve to its end, each one call of the network.
    - `stochasticity`: how much noise a step draws, as a share of the posterior's standard deviation.

    **Raises:** `ValueError` if `num_steps` is not positive or `stochasticity` not in [0, 1].
    """

    num_steps: int = eqx.field(static=True)
    stochasticity: float = eqx.field(static=True)
    solver: dfx.AbstractSolver

    @checked
    def __init__(self, num_steps: int = 200, *, stochasticity: Real = 1.0) -> None:
        check_positive(num_steps=num_steps)
        if not 0 <= stochasticity <= 1:
            raise ValueError(f"`stochasticity` is {stochasticity}: give 0 (DDIM), 1 (DDPM), or a number in between")
        self.num_steps = num_steps
        self.stochasticity = float(stochasticity)
        self.solver = dfx.Euler()  # adds a step's increment, as it would any term's

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        flow.check_gaussian("an ancestral step")
        brownian: dfx.AbstractPath | None = None
        adjoint: dfx.AbstractAdjoint = dfx.RecursiveCheckpointAdjoint()
        if self.stochasticity > 0:
            if key is None:
                raise ValueError("`key` is None: each step draws noise, so give `jax.random.key(seed)`")
            brownian = dfx.UnsafeBrownianPath(jax.ShapeDtypeStruct(z.shape, z.dtype), key)
            adjoint = dfx.DirectAdjoint()
        times = jnp.linspace(*as_times(t0, t1, z), self.num_steps + 1)
        return dfx.diffeqsolve(
            _Posterior(flow, self.stochasticity, brownian),
            self.solver,
            times[0],
            times[-1],
            None,
            z,
            x,
            saveat=saveat,
            stepsize_controller=dfx.StepTo(ts=times),
            max_steps=self.num_steps,
            adjoint=adjoint,
        )


class _Posterior(dfx.AbstractTerm):
    """A step's increment `a u + (b - 1) z + sqrt(c) eps`: the vector field `(u, z)`, controlled by the coefficients."""

    flow: Flow
    stochasticity: float = eqx.field(static=True)
    brownian: dfx.AbstractPath | None

    def vf(self, t: Any, y: Point, args: PyTree) -> tuple[Point, Point]:
        return self.flow.estimate(t, y, args).target, y

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> _Coefficients:
        a, b, noise_std = self.flow.path.posterior(t0, t1, self.stochasticity)
        if self.brownian is None:
            return a, b - 1, noise_std  # which is 0
        return a, b - 1, noise_std * self.brownian.evaluate(t0, t1) / jnp.sqrt(t1 - t0)

    def prod(self, vf: tuple[Point, Point], control: _Coefficients) -> Point:
        (target, z), (a, b_less_one, noise) = vf, control
        return a * target + b_less_one * z + noise
