"""Solves of one example from a point to the end of its path."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .._flow.flow import Flow
from .._flow.network import solve_dtype
from .._types import Number, Point, PRNGKey, Time, check_key, check_number, check_shape, checked, is_traced
from .integrator import AbstractIntegrator, as_times, final_state, forward_mode_explained, succeeded
from .ode import ODEIntegrator


_END = dfx.SaveAt(t1=True)


@checked
def solve(
    flow: Flow,
    z: Point,
    x: PyTree = None,
    *,
    t0: Number | None = None,
    t1: Number | None = None,
    saveat: dfx.SaveAt | None = None,
    integrator: AbstractIntegrator | None = None,
    key: PRNGKey | None = None,
    throw: bool = True,
) -> dfx.Solution:
    """Solve the ODE or SDE of a flow for one example, in path coordinates; use `jax.vmap` for a batch.

    With the default integrator it solves `dz/dt = v(t, z, x)` from `t0` to `t1`, the probability-flow ODE
    ([Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 13). In path coordinates the flow's transform is not
    inverted, and data are scaled by `alpha(1)`; [`flowprop.sample`][] returns data in their own units.

    **Arguments:**

    - `flow`: the flow.
    - `z`: the point at `t0`, of the flow's `shape`.
    - `x`: the condition (context) of this example. By default none.
    - `t0`, `t1`: the times of start and end, within the flow's span. With `t0 > t1` the solve runs back to noise. They
      may be traced, so that `jax.vmap` can give each example times of its own. By default the ends of the span, which
      is [0, 1] if the velocity is finite there.
    - `saveat`: which states to save: by default only the last, with `dfx.SaveAt(ts=...)` a trajectory, with
      `dfx.SaveAt(dense=True)` a continuous trajectory.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
    - `key`: the random key for an integrator that draws random numbers. By default none.
    - `throw`: whether a solve that fails raises an error. If not, the `result` of the solution says whether it failed.
      By default `True`.

    **Returns:** Diffrax's solution, with its statistics and its result code. [`flowprop.function_evaluations`][] counts
    the calls of the network.

    **Raises:** `ValueError` if `z` has the wrong shape or is not finite, if a time lies outside of the span, if the
    integrator draws random numbers and `key` is `None`, or if an integrator that runs only from noise to data is given
    `t0 >= t1`. For traced times, and for a solve that fails, the error is raised at run time.

    ```python
    import diffrax as dfx
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.3 * z, shape=(2,))
    saveat = dfx.SaveAt(ts=jnp.linspace(0, 1, 5))
    path = fp.solve(flow, jnp.ones(2), saveat=saveat)
    print(path.ys.shape)  # (5, 2)
    print(f"{path.ys[-1, 0]:.3f}")  # 1.350
    end = lambda t1: fp.solve(flow, jnp.ones(2), t1=t1).ys[0, 0]
    half, whole = jax.vmap(end)(jnp.array([0.5, 1.0]))
    print(f"{half:.3f}, {whole:.3f}")  # 1.162, 1.350
    ```
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    z = jnp.asarray(z)
    check_shape("z", z, flow.shape, "the flow's `shape` is that of one example; use `jax.vmap` for a batch")
    if not is_traced(z) and not np.all(np.isfinite(z)):
        count = int(np.sum(~np.isfinite(z)))
        raise ValueError(f"`z` contains {count} numbers that are not finite: give a finite point")
    z = z.astype(solve_dtype(flow.network, z))
    start, end = flow.span
    t0 = _within("t0", start if t0 is None else t0, flow)
    t1 = _within("t1", end if t1 is None else t1, flow)
    if not integrator.runs_backwards:
        t1 = _check_forwards(t0, t1, type(integrator).__name__)
    if key is not None:
        check_key("key", key)
    saveat = _END if saveat is None else saveat
    with forward_mode_explained():
        return _solve(integrator, flow, z, x, *as_times(t0, t1, z), saveat, key, throw)


@eqx.filter_jit
def _solve(
    integrator: AbstractIntegrator,
    flow: Flow,
    z: Point,
    x: PyTree,
    t0: Time,
    t1: Time,
    saveat: dfx.SaveAt,
    key: PRNGKey | None,
    throw: bool,
) -> dfx.Solution:
    return integrator.integrate(flow, z, flow.encode(x), t0, t1, saveat, key, throw=throw)


def solve_to_data(
    flow: Flow, z: Point, x: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None
) -> tuple[Point, Bool[Array, ""]]:
    """Solve one example from noise to data in the units of the data, and return whether the solve succeeded.

    A solve that fails raises no error, but its point has no meaning. The caller decides how to handle it.
    """
    features = flow.encode(x)
    solution = integrator.integrate(flow, z, features, *flow.span, _END, key, throw=False)
    return flow.transform.inverse(to_end_of_path(flow, final_state(solution), features)), succeeded(solution)


def to_end_of_path(flow: Flow, z: Point, x: PyTree) -> Point:
    """Return the data, in the coordinates of the transform, from the point `z` at the end of a flow's span.

    If the span ends before time 1, the data are the target estimated at `z`, with one more evaluation. Otherwise they
    are `z / alpha(1)`.
    """
    end = flow.span[1]
    return flow.estimate(end, z, x).target if end < 1 else z / flow.path.alpha(end)


def _within(name: str, t: Number, flow: Flow) -> Number:
    """Return `t`, or raise an error if it lies outside of the flow's span by more than a rounding error."""
    start, end = flow.span
    rounding = 1e-6  # 0.99 in single precision is larger than 0.99
    remedy = f"give a time in the flow's span [{start}, {end}], in which its velocity is finite"
    check_number(name, t, at_least=start - rounding, at_most=end + rounding, remedy=remedy)
    if not is_traced(t):
        return min(max(float(t), start), end)
    outside = (t < start - rounding) | (t > end + rounding) | jnp.isnan(t)
    t = eqx.error_if(jnp.asarray(t), outside, f"`{name}` is outside of the flow's span: {remedy}")
    return jnp.clip(t, start, end)


def _check_forwards(t0: Number, t1: Number, name: str) -> Number:
    """Return `t1`, or raise an error if it is not after `t0`. `name` is the integrator's class, for the message."""
    if not is_traced(t0, t1):
        if t0 >= t1:
            raise ValueError(f"`t0` is {t0} and `t1` {t1}: {name} runs from noise to data, so give t0 < t1")
        return t1
    return eqx.error_if(jnp.asarray(t1), t0 >= t1, f"{name} runs from noise to data: give t0 < t1")
