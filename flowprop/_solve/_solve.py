"""From a point to the end of its path."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._flow import Flow
from .._types import Point, PRNGKey, Real, check_key, check_shape, checked
from ._ancestral import AncestralIntegrator
from ._integrator import AbstractIntegrator, as_times, end_state, succeeded
from ._ode import ODEIntegrator
from ._sde import SDEIntegrator


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
    - `key`: for an integrator that draws random numbers.

    **Returns:** Diffrax's solution, with its statistics and result code. See also
    [`flowprop.function_evaluations`][].

    **Raises:** `ValueError` if `z` has the wrong shape, a time lies outside of the span, an
    integrator that draws random numbers comes without a key, or one other than the ODE's is to run
    back to noise.
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
    if t0 >= t1 and isinstance(integrator, SDEIntegrator | AncestralIntegrator):
        name = type(integrator).__name__
        raise ValueError(f"`t0` is {t0} and `t1` {t1}: {name} runs from noise to data, so give t0 < t1")
    if key is not None:
        check_key("key", key)
    saveat = dfx.SaveAt(t1=True) if saveat is None else saveat
    return _solve(integrator, flow, z, x, *as_times(t0, t1, z), saveat, key)


@eqx.filter_jit
def _solve(integrator: AbstractIntegrator, *args: PyTree) -> dfx.Solution:
    return integrator.integrate(*args)


def transport(flow: Flow, z: Point, x: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None) -> Point:
    """One example from noise to data, in data coordinates."""
    return arrive(flow, end_state(integrator.integrate(flow, z, x, *flow.span, dfx.SaveAt(t1=True), key)), x)


def carry(
    flow: Flow, z: Point, x: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None
) -> tuple[Point, Bool[Array, ""]]:
    features = flow.encode(x)
    solution = integrator.integrate(flow, z, features, *flow.span, dfx.SaveAt(t1=True), key)
    return flow.transform.inverse(arrive(flow, end_state(solution), features)), succeeded(solution)


def arrive(flow: Flow, z: Point, x: PyTree) -> Point:
    """The data at the end of a flow's path.

    Where the flow's span ends before 1, one evaluation of the target makes the last stretch.
    """
    end = flow.span[1]
    return flow.estimate(end, z, x).target if end < 1 else z / flow.path.alpha(end)
