"""The ancestral sampler."""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._flow import Flow
from .._frozen import Frozen
from .._types import Number, Point, PRNGKey, Scalar, Time, check_number, check_positive, checked, is_traced
from ._brownian import Increments
from ._integrator import AbstractIntegrator, as_times


_Coefficients = tuple[Scalar, Scalar, Point | Scalar]


class AncestralIntegrator(AbstractIntegrator):
    """The ancestral sampler `z_t = a u + b z_s + sqrt(c) eps`, in equal steps.

    Each step draws from the path's posterior given the estimated target `u`
    ([`flowprop.AbstractPath.posterior`][]): at `stochasticity` 1 this is DDPM's sampler (Ho et al. 2020,
    algorithm 2) and NoProp's (eq. 6). At 0 it is DDIM's (Song, Meng & Ermon 2021, eq. 12), which tends to
    the ODE and needs no key. Where the target is exact, small steps give every one
    of them the ODE's marginals. It has no likelihood and runs towards the data only. Its samples have gradients, at
    fixed keys.

    **Arguments:**

    - `num_steps`: how many steps from the start of the solve to its end, each one call of the network.
    - `stochasticity`: how much noise a step draws, as a share of the posterior's standard deviation; may be traced.
    - `adjoint`: how a solve is differentiated. By default `dfx.RecursiveCheckpointAdjoint()`, for gradients.
    - `progress_meter`: by default none; `dfx.TextProgressMeter()` prints how far a solve has come.

    **Raises:** `ValueError` if `num_steps` is not positive or `stochasticity` not in [0, 1].

    ```python
    import flowprop as fp

    ddpm, ddim = fp.AncestralIntegrator(100), fp.AncestralIntegrator(100, stochasticity=0)
    ```
    """

    runs_backwards: ClassVar[bool] = False
    has_likelihood: ClassVar[bool] = False

    num_steps: int = eqx.field(static=True)
    stochasticity: Frozen
    draws_noise: bool = eqx.field(static=True)
    solver: dfx.AbstractSolver
    adjoint: dfx.AbstractAdjoint
    progress_meter: dfx.AbstractProgressMeter

    @checked
    def __init__(
        self,
        num_steps: int = 200,
        *,
        stochasticity: Number | Frozen = 1.0,
        adjoint: dfx.AbstractAdjoint | None = None,
        progress_meter: dfx.AbstractProgressMeter | None = None,
    ) -> None:
        share = stochasticity.value if isinstance(stochasticity, Frozen) else stochasticity
        check_positive(num_steps=num_steps)
        remedy = "give 0 (DDIM), 1 (DDPM), or a number in between"
        check_number("stochasticity", share, at_least=0, at_most=1, remedy=remedy)
        self.num_steps = num_steps
        # An array, so that another one needs no new compilation; and no parameter of a model that holds it.
        self.stochasticity = Frozen(jnp.asarray(share, float))
        # Known when the program is made: without noise no key is needed.
        self.draws_noise = is_traced(share) or bool(share > 0)
        self.solver = dfx.Euler()  # adds a step's increment, as it would any term's
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
        flow.check_gaussian("an ancestral step")
        brownian: Increments | None = None
        if self.draws_noise:
            if key is None:
                raise ValueError("`key` is None: each step draws noise, so give `jax.random.key(seed)`")
            brownian = Increments(z, key)
        times = jnp.linspace(*as_times(t0, t1, z), self.num_steps + 1)
        return dfx.diffeqsolve(
            _Posterior(flow, self.stochasticity.value.astype(z.dtype), brownian),
            self.solver,
            times[0],
            times[-1],
            None,
            z,
            x,
            saveat=saveat,
            stepsize_controller=dfx.StepTo(ts=times),
            max_steps=self.num_steps,
            adjoint=self.adjoint,
            progress_meter=self.progress_meter,
            throw=throw,
        )


class _Posterior(dfx.AbstractTerm):
    """A step's increment `a u + (b - 1) z + sqrt(c) eps`: the vector field `(u, z)`, controlled by the coefficients."""

    flow: Flow
    stochasticity: Scalar
    brownian: Increments | None

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
