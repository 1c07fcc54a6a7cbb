"""From a point to the end of its path."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .._flow.flow import Flow
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
    """One example's path through a flow, in path coordinates; use `jax.vmap` for more.

    **Arguments:**

    - `flow`: the flow.
    - `z`: where the path begins, of the flow's `shape`.
    - `x`: the condition that the network takes.
    - `t0`, `t1`: the times of start and end, within the flow's span; `t0 > t1` runs back to noise. They may be traced:
      `jax.vmap` can give each example times of its own. By default the span itself, which is [0, 1] wherever the
      velocity is finite there.
    - `saveat`: what to keep: the end by default, a trajectory by `dfx.SaveAt(ts=...)`, a continuous
      one by `dfx.SaveAt(dense=True)`.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
    - `key`: for an integrator that draws random numbers.
    - `throw`: whether a solve that fails raises an error. If not, the solution's `result` says so.

    **Returns:** Diffrax's solution, with its statistics and result code. See also
    [`flowprop.function_evaluations`][].

    **Raises:** `ValueError` if `z` has the wrong shape or is not finite, a time lies outside of the span, an
    integrator that draws random numbers comes without a key, or one that runs towards the data only is to run
    back to noise. Of traced times and in a solve that fails the error comes at run time.

    ```python
    import diffrax as dfx
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.3 * z, shape=(2,))
    path = fp.solve(flow, jnp.ones(2), saveat=dfx.SaveAt(ts=jnp.linspace(0, 1, 5)))
    ends = jax.vmap(lambda t1: fp.solve(flow, jnp.ones(2), t1=t1).ys[0])(jnp.array([0.5, 1.0]))
    ```
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    z = jnp.asarray(z)
    check_shape("z", z, flow.shape, "the flow's `shape` is that of one example; use `jax.vmap` for a batch")
    if not is_traced(z) and not np.all(np.isfinite(z)):
        count = int(np.sum(~np.isfinite(z)))
        raise ValueError(f"`z` holds {count} numbers that are not finite: a path begins at a finite point")
    z = z.astype(flow.solve_dtype(z))
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


def solve_to_end(flow: Flow, z: Point, features: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None) -> Point:
    """One example from noise to the end of its path, given an encoded condition; a solve that fails raises an error."""
    return to_end_of_path(flow, final_state(integrator.integrate(flow, z, features, *flow.span, _END, key)), features)


def solve_to_data(
    flow: Flow, z: Point, x: PyTree, integrator: AbstractIntegrator, key: PRNGKey | None
) -> tuple[Point, Bool[Array, ""]]:
    """One example from noise to data, in the data's own units, and whether its solve succeeded.

    A solve that fails raises no error; its point has no meaning. The caller decides what becomes of it.
    """
    features = flow.encode(x)
    solution = integrator.integrate(flow, z, features, *flow.span, _END, key, throw=False)
    return flow.transform.inverse(to_end_of_path(flow, final_state(solution), features)), succeeded(solution)


def to_end_of_path(flow: Flow, z: Point, x: PyTree) -> Point:
    """The data at the end of a flow's path.

    Where the flow's span ends before 1, one evaluation of the target makes the last stretch.
    """
    end = flow.span[1]
    return flow.estimate(end, z, x).target if end < 1 else z / flow.path.alpha(end)


def _within(name: str, t: Number, flow: Flow) -> Number:
    """`t`, or an error if it lies outside of the flow's span by more than rounding."""
    start, end = flow.span
    rounding = 1e-6  # 0.99 in single precision is larger than 0.99
    remedy = f"a time lies in the flow's span [{start}, {end}], where its velocity is finite"
    check_number(name, t, at_least=start - rounding, at_most=end + rounding, remedy=remedy)
    if not is_traced(t):
        return min(max(float(t), start), end)
    outside = (t < start - rounding) | (t > end + rounding) | jnp.isnan(t)
    t = eqx.error_if(jnp.asarray(t), outside, f"`{name}` is outside of the flow's span: {remedy}")
    return jnp.clip(t, start, end)


def _check_forwards(t0: Number, t1: Number, name: str) -> Number:
    """`t1`, or an error if it does not come after `t0`: for an integrator of this name, which goes no other way."""
    if not is_traced(t0, t1):
        if t0 >= t1:
            raise ValueError(f"`t0` is {t0} and `t1` {t1}: {name} runs from noise to data, so give t0 < t1")
        return t1
    return eqx.error_if(jnp.asarray(t1), t0 >= t1, f"{name} runs from noise to data: give t0 < t1")
