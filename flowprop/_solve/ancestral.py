"""The ancestral sampler."""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._flow.flow import Flow
from .._flow.noise import check_gaussian
from .._frozen import Frozen
from .._types import Number, Point, PRNGKey, Scalar, Time, check_number, check_positive, checked, is_traced
from .brownian import Increments
from .integrator import AbstractIntegrator, as_times


_Coefficients = tuple[Scalar, Scalar, Point | Scalar]


class AncestralIntegrator(AbstractIntegrator):
    """The ancestral sampler `z_t = a u + b z_s + sqrt(c) eps`, with equal steps from time `s` to time `t`.

    Each step draws from the posterior of the path given the estimated target `u` (x0-prediction)
    ([`flowprop.AbstractPath.posterior`][]). With `stochasticity=1` this is the sampler of DDPM
    ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 2) and of NoProp
    ([Li et al. 2025](https://arxiv.org/abs/2503.24322), eq. 6). With `stochasticity=0` it is the sampler of DDIM
    ([Song, Meng & Ermon 2021](https://arxiv.org/abs/2010.02502), eq. 12), which converges to the ODE and needs no key.
    If the network's target is exact, the marginals of all of them converge to those of the ODE as the steps become
    small.

    The sampler has no likelihood and runs only from noise to data. Its samples have gradients at a fixed key.

    **Arguments:**

    - `num_steps`: how many steps to take from the start of the solve to its end. Each step calls the network once.
      By default 200.
    - `stochasticity`: the noise of a step divided by the standard deviation of the posterior (the parameter eta of
      DDIM), in [0, 1]. It may be traced. By default 1.
    - `adjoint`: how Diffrax differentiates a solve. By default `dfx.RecursiveCheckpointAdjoint()`, for reverse-mode
      gradients.
    - `progress_meter`: shows the progress of a solve; `dfx.TextProgressMeter()` prints it. By default none.

    **Raises:** `ValueError` if `num_steps` is not positive or `stochasticity` is not in [0, 1].

    ```python
    import jax
    import flowprop as fp

    flow = fp.ct_flow(lambda t, z, x: 0.5 * z, shape=(2,))
    ddpm = fp.AncestralIntegrator(10)
    ddim = fp.AncestralIntegrator(10, stochasticity=0)
    samples = fp.sample(flow, 5, key=jax.random.key(0), integrator=ddpm)
    print(samples.shape)  # (5, 2)
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
        # An array, so that another value needs no new compilation; `Frozen`, so that no training changes it.
        self.stochasticity = Frozen(jnp.asarray(share, float))
        # A static field, so that a solve without noise needs no key.
        self.draws_noise = is_traced(share) or bool(share > 0)
        self.solver = dfx.Euler()  # adds the increment that `_Posterior` computes
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

        **Raises:** `ValueError` if the noise of the flow is not gaussian given the data, or if `stochasticity` is above
        0 and `key` is `None`.
        """
        check_gaussian(flow, "an ancestral step")
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
    """The increment of a step, `a u + (b - 1) z + sqrt(c) eps`.

    In Diffrax's terms `(u, z)` is the vector field, and the coefficients with the noise are the control.
    """

    flow: Flow
    stochasticity: Scalar
    brownian: Increments | None

    def vf(self, t: Any, y: Point, args: PyTree) -> tuple[Point, Point]:
        return self.flow.estimate(t, y, args).target, y

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> _Coefficients:
        a, b, noise_std = self.flow.path.posterior(t0, t1, self.stochasticity)
        if self.brownian is None:
            return a, b - 1, noise_std  # `noise_std` is 0
        return a, b - 1, noise_std * self.brownian.evaluate(t0, t1) / jnp.sqrt(t1 - t0)

    def prod(self, vf: tuple[Point, Point], control: _Coefficients) -> Point:
        (target, z), (a, b_less_one, noise) = vf, control
        return a * target + b_less_one * z + noise
