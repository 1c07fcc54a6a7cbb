"""Integrating a flow with Diffrax: samples, log-likelihoods, whole solutions.

The only room that knows Diffrax.
"""

import abc
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ._divergence import AbstractDivergence, ExactDivergence
from ._flow import Flow, check_condition
from ._types import Point, Points, PRNGKey, Real, Scalar, Time, check_key, check_positive, check_shape, checked


class AbstractIntegrator(eqx.Module):
    """How a flow is integrated: a Diffrax solver and its steps."""

    solver: eqx.AbstractVar[dfx.AbstractSolver]

    @abc.abstractmethod
    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        """One example's solution from `t0` to `t1`."""


class ODEIntegrator(AbstractIntegrator):
    """The probability-flow ODE `dz/dt = v(t, z, x)`: deterministic, with a likelihood.

    `ODEIntegrator()` is Tsit5 with adaptive steps at tolerances of 1e-5;
    `ODEIntegrator(solver=dfx.Heun(), dt0=0.1)` takes ten fixed steps.

    **Arguments:**

    - `solver`: any Diffrax ODE solver.
    - `stepsize_controller`: any Diffrax controller. By default constant steps if `dt0` is given
      and `dfx.PIDController(rtol=1e-5, atol=1e-5)` if not.
    - `dt0`: the (first) step, positive; its sign is supplied. By default, for adaptive steps, 0.05.
    - `max_steps`: of one solve, after which it fails.
    - `adjoint`: how a solve is differentiated.

    **Raises:** `ValueError` if `dt0` is not positive.
    """

    solver: dfx.AbstractSolver
    stepsize_controller: dfx.AbstractStepSizeController
    dt0: Float[Array | np.ndarray, ""]
    max_steps: int | None = eqx.field(static=True)
    adjoint: dfx.AbstractAdjoint

    @checked
    def __init__(
        self,
        solver: dfx.AbstractSolver | None = None,
        stepsize_controller: dfx.AbstractStepSizeController | None = None,
        *,
        dt0: Real | None = None,
        max_steps: int | None = 4096,
        adjoint: dfx.AbstractAdjoint | None = None,
    ) -> None:
        if dt0 is not None and dt0 <= 0:
            raise ValueError(f"`dt0` is {dt0}: give a positive step; its sign is supplied")
        if stepsize_controller is None:
            adaptive = dt0 is None
            stepsize_controller = dfx.PIDController(rtol=1e-5, atol=1e-5) if adaptive else dfx.ConstantStepSize()
        self.solver = dfx.Tsit5() if solver is None else solver
        self.stepsize_controller = stepsize_controller
        # Not left to Diffrax, whose choice of a first step costs two evaluations.
        # An array, so that another step needs no new compilation.
        self.dt0 = np.asarray(0.05 if dt0 is None else dt0, float)
        self.max_steps = max_steps
        self.adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        return self.solve(dfx.ODETerm(lambda t, z, x: flow.estimate(t, z, x).velocity), z, x, t0, t1, saveat)

    def solve(
        self, term: dfx.AbstractTerm, y: PyTree, args: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt
    ) -> dfx.Solution:
        """Any ODE by this solver and these steps."""
        start, end = _times(t0, t1, y)
        return dfx.diffeqsolve(
            term,
            self.solver,
            start,
            end,
            jnp.sign(end - start) * self.dt0.astype(start.dtype),
            y,
            args,
            saveat=saveat,
            stepsize_controller=self.stepsize_controller,
            max_steps=self.max_steps,
            adjoint=self.adjoint,
        )


class SDEIntegrator(AbstractIntegrator):
    """The reverse SDE `dz = (v - g^2/(2 sigma) eps) dt + g dW`, in equal steps.

    Its marginals are those of the ODE (Song et al. 2021, appendix D), so that it samples the same
    distribution; `g` is the path's. It has no likelihood and runs towards the data only.

    **Arguments:**

    - `num_steps`: how many steps from the start of the solve to its end.
    - `solver`: any Diffrax SDE solver. The noise is additive, so that Ito and Stratonovich agree.

    **Raises:** `ValueError` if `num_steps` is not positive.
    """

    num_steps: int = eqx.field(static=True)
    solver: dfx.AbstractSolver

    @checked
    def __init__(self, num_steps: int = 200, *, solver: dfx.AbstractSolver | None = None) -> None:
        if num_steps < 1:
            raise ValueError(f"`num_steps` is {num_steps}: give at least one step")
        self.num_steps = num_steps
        self.solver = dfx.Euler() if solver is None else solver

    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        if key is None:
            raise ValueError("`key` is None: an SDE draws random numbers, so give `jax.random.key(seed)`")

        def drift(t: Time, z: Point, x: PyTree) -> Point:
            estimate = flow.estimate(t, z, x)
            return estimate.velocity - flow.path.diffusion(t)[1] * estimate.noise

        def diffusion(t: Time, z: Point, x: PyTree) -> lx.AbstractLinearOperator:
            return lx.IdentityLinearOperator(structure) * flow.path.diffusion(t)[0]

        structure = jax.ShapeDtypeStruct(z.shape, z.dtype)
        start, end = _times(t0, t1, z)
        step = (end - start) / self.num_steps
        # Steps are equal and none is rejected, so that increments need not fit into a tree.
        brownian = dfx.UnsafeBrownianPath(structure, key, _levy_area(self.solver))
        return dfx.diffeqsolve(
            dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(diffusion, brownian)),
            self.solver,
            start,
            end,
            step,
            z,
            x,
            saveat=saveat,
            max_steps=self.num_steps + 1,
            adjoint=dfx.DirectAdjoint(),
        )


def _times(t0: Time, t1: Time, y: PyTree) -> tuple[Array, Array]:
    dtype = jnp.result_type(*jax.tree.leaves(y))
    return jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)


def _levy_area(solver: dfx.AbstractSolver) -> Any:
    if not isinstance(solver, dfx.AbstractSRK):
        return dfx.BrownianIncrement
    areas = (dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea)
    return next(area for area in areas if issubclass(area, solver.minimal_levy_area))


@checked
def solve(
    flow: Flow,
    z: Point,
    x: PyTree = None,
    *,
    t0: Real | None = None,
    t1: Real | None = None,
    saveat: dfx.SaveAt | None = None,
    integrator: AbstractIntegrator | None = None,
    key: PRNGKey | None = None,
) -> dfx.Solution:
    """One example's path through a flow, in path coordinates; use `jax.vmap` for more.

    **Arguments:**

    - `flow`: the flow.
    - `z`: where the path begins, of the flow's `shape`.
    - `x`: the condition that the network takes.
    - `t0`, `t1`: from when to when, within the flow's span; `t0 > t1` runs back to noise. By
      default the span itself, [0, 1] wherever the velocity is finite there.
    - `saveat`: what to keep: the end by default, a trajectory by `dfx.SaveAt(ts=...)`, a continuous
      one by `dfx.SaveAt(dense=True)`.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
    - `key`: for an SDE.

    **Returns:** Diffrax's solution, with its statistics and result code. See also
    [`flowprop.function_evaluations`][].

    **Raises:** `ValueError` if `z` has the wrong shape, a time lies outside of the span, or an SDE
    comes without a key.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    z = jnp.asarray(z)
    check_shape("z", z, flow.shape, "the flow's `shape` is that of one example; use `jax.vmap` for a batch")
    start, end = flow.span
    t0, t1 = start if t0 is None else t0, end if t1 is None else t1
    for name, t in (("t0", t0), ("t1", t1)):
        if not start <= t <= end:
            raise ValueError(
                f"`{name}` is {t}, outside of the flow's span [{start}, {end}] where its velocity is finite"
            )
    if t0 >= t1 and isinstance(integrator, SDEIntegrator):
        raise ValueError(f"`t0` is {t0} and `t1` {t1}: the reverse SDE runs from noise to data, so give t0 < t1")
    if key is not None:
        check_key("key", key)
    saveat = dfx.SaveAt(t1=True) if saveat is None else saveat
    return _solve(integrator, flow, z, x, *_times(t0, t1, z), saveat, key)


@eqx.filter_jit
def _solve(integrator: AbstractIntegrator, *args: PyTree) -> dfx.Solution:
    return integrator.integrate(*args)


def _end(solution: dfx.Solution) -> PyTree:
    return jax.tree.map(lambda saved: saved[0], solution.ys)


def transport(flow: Flow, z: Point, x: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None) -> Point:
    """One example from noise to data, in data coordinates.

    Where the flow's span ends before 1, one evaluation of the target makes the last stretch.
    """
    start, end = flow.span
    z = _end(integrator.integrate(flow, z, x, start, end, dfx.SaveAt(t1=True), key))
    return flow.estimate(end, z, x).target if end < 1 else z / flow.path.alpha(end)


def base_std(flow: Flow) -> Scalar:
    """The standard deviation of the gaussian at the start of a flow's span.

    1 on a variance-preserving path, and on any path at t = 0; in between that of unit data.
    """
    start = flow.span[0]
    return jnp.hypot(flow.path.alpha(start), flow.path.sigma(start))


def draw_start(flow: Flow, key: PRNGKey) -> Point:
    """One example's starting noise."""
    return base_std(flow) * jax.random.normal(key, flow.shape)


def example_keys(key: PRNGKey, num_examples: int) -> Key[Array, " examples"]:
    """A key for each example that does not depend on how many there are."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_examples))


def in_batches(function: Callable[..., PyTree], arguments: PyTree, batch_size: int | None) -> PyTree:
    """`jax.vmap(function)(*arguments)`, at most `batch_size` examples at once.

    The last batch is filled up, so that one program serves all. Without a size, a CPU takes 256 at
    once: they stay in its cache, and fewer wait for the one that needs most steps.
    """
    num_examples = jax.tree.leaves(arguments)[0].shape[0]
    if batch_size is None:
        batch_size = 256 if jax.default_backend() == "cpu" else num_examples
    num_batches = -(-num_examples // max(batch_size, 1))
    if num_batches <= 1:
        return jax.vmap(function)(*arguments)
    size = -(-num_examples // num_batches)
    rows = jnp.minimum(jnp.arange(num_batches * size), num_examples - 1).reshape(num_batches, size)
    values = jax.lax.map(lambda rows: jax.vmap(function)(*jax.tree.map(lambda leaf: leaf[rows], arguments)), rows)
    return jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:])[:num_examples], values)


@checked
def sample(
    flow: Flow,
    num_samples: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> Float[Array, "num_samples *shape"]:
    """Draw from a flow: noise, integrated to data.

    Each sample is solved on its own and has a key of its own, so that the first samples are the
    same however many are drawn.

    **Arguments:**

    - `flow`: the flow.
    - `num_samples`: how many.
    - `x`: the conditions, one for each sample; each leaf carries the batch axis.
    - `key`: for the noise, and for the SDE's.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`; an [`flowprop.SDEIntegrator`][] draws
      from the same distribution.
    - `batch_size`: how many are solved at once. By default 256 on a CPU, whose cache they then fit,
      and all of them elsewhere.

    **Returns:** samples in data coordinates, `z(1) / alpha(1)`, of shape `(num_samples, *shape)`.

    **Raises:** `ValueError` if a leaf of `x` has another batch size or `num_samples` is not positive.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    check_key("key", key)
    check_positive(num_samples=num_samples)
    check_condition(x, num_samples)
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    return _sample(flow, num_samples, x, key, integrator, batch_size)


@eqx.filter_jit
def _sample(
    flow: Flow, num_samples: int, x: PyTree, key: PRNGKey, integrator: AbstractIntegrator, batch_size: int | None
) -> Array:
    def one(key: PRNGKey, x: PyTree) -> Point:
        key_noise, key_path = jax.random.split(key)
        return transport(flow, draw_start(flow, key_noise), x, integrator, key_path)

    return in_batches(one, (example_keys(key, num_samples), x), batch_size)


@checked
def log_prob(
    flow: Flow,
    z1: Points,
    x: PyTree = None,
    *,
    key: PRNGKey | None = None,
    divergence: AbstractDivergence | None = None,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """The log-likelihood of data under a flow: the exact pushforward of N(0, I) by its ODE.

    `log p(z_1) = log N(z(0); 0, I) - int_0^1 div v dt + d log alpha(1)` (Chen et al. 2018, eq. 8),
    solved from `alpha(1) z_1` back to noise. Where the schedule leaves noise on the data, so that
    `alpha(1) < 1`, it is the density of slightly noised data.

    **Arguments:**

    - `flow`: the flow.
    - `z1`: a batch of data, `(n, *shape)`.
    - `x`: the conditions; each leaf carries the batch axis.
    - `key`: for a stochastic divergence.
    - `divergence`: by default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: an ODE's. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many are solved at once. By default 256 on a CPU, whose cache they then fit,
      and all of them elsewhere.

    **Returns:** log-densities in nats, `(n,)`.

    **Raises:** `TypeError` for an SDE, which has no likelihood; `ValueError` if `z1` or `x` has the
    wrong shape or a stochastic divergence comes without a key.
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    divergence = ExactDivergence() if divergence is None else divergence
    if not isinstance(integrator, ODEIntegrator):
        raise TypeError(f"`integrator` is {type(integrator).__name__}: a likelihood needs the ODE, `fp.ODEIntegrator`")
    if key is not None:
        check_key("key", key)
    z1 = jnp.asarray(z1)
    check_shape("z1", z1, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_condition(x, z1.shape[0])
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    return _log_prob(flow, z1, x, key, divergence, integrator, batch_size)


@eqx.filter_jit
def _log_prob(
    flow: Flow,
    z1: Array,
    x: PyTree,
    key: PRNGKey | None,
    divergence: AbstractDivergence,
    integrator: ODEIntegrator,
    batch_size: int | None,
) -> Array:
    start, end = flow.span
    alpha = flow.path.alpha(jnp.asarray(end, z1.dtype))

    def one(z: Point, x: PyTree, key: PRNGKey | None) -> Scalar:
        tangents = divergence.tangents(z, key=key)

        def augmented(t: Time, state: tuple[Point, Scalar], x: PyTree) -> tuple[Point, Scalar]:
            return divergence.value_and_divergence(lambda z: flow.estimate(t, z, x).velocity, state[0], tangents)

        state = (alpha * z, jnp.zeros((), z.dtype))
        solution = integrator.solve(dfx.ODETerm(augmented), state, x, end, start, dfx.SaveAt(t1=True))
        z0, change = _end(solution)
        base = jax.scipy.stats.norm.logpdf(z0, scale=base_std(flow).astype(z0.dtype)).sum()
        return base + change + z.size * jnp.log(alpha)

    keys = None if key is None else example_keys(key, z1.shape[0])
    return in_batches(one, (z1, x, keys), batch_size)


@checked
def function_evaluations(solution: dfx.Solution, integrator: AbstractIntegrator) -> Int[Array, "*batch"]:
    """How often a solve called the network, rejected steps and all stages included.

    An explicit Runge-Kutta method of `s` stages calls it `s n` times in `n` steps, and
    `(s - 1) n + 1` times where the last stage of a step is the first of the next: Euler n, Heun 2 n,
    Tsit5 6 n + 1. (Such a method calls once more for each rejection of the very first step,
    which Diffrax does not count.)

    **Arguments:**

    - `solution`: of [`flowprop.solve`][], or of a `jax.vmap` of it.
    - `integrator`: the one that made it.

    **Returns:** an integer, or one for each solve of a batch.

    **Raises:** `ValueError` for a solver whose number of calls its steps do not determine, such as
    an implicit one.
    """
    per_step, at_start = _calls(integrator.solver)
    return per_step * jnp.asarray(solution.stats["num_steps"]) + at_start


def _calls(solver: dfx.AbstractSolver) -> tuple[int, int]:
    match solver:
        case dfx.AbstractRungeKutta(tableau=dfx.ButcherTableau(implicit=False) as tableau):
            return tableau.num_stages - tableau.fsal, int(tableau.fsal)
        case dfx.AbstractSRK():
            return len(solver.tableau.b_sol), 0
        case dfx.Euler() | dfx.EulerHeun() | dfx.ItoMilstein() | dfx.StratonovichMilstein() | dfx.LeapfrogMidpoint():
            return 1, 0
        case dfx.ReversibleHeun():
            return 1, 1
    raise ValueError(
        f"`integrator` uses {type(solver).__name__}, whose calls of the network its steps do not determine: "
        "an explicit solver's can be counted"
    )


def label_integrator() -> ODEIntegrator:
    """Five steps of Heun: a flow of labels ends at one of a few points, and needs no more."""
    return ODEIntegrator(solver=dfx.Heun(), dt0=0.2)
