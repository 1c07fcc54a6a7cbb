"""The interfaces of integrators, and what all solves share."""

import abc
import contextlib
from collections.abc import Callable, Iterator
from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._flow.flow import Flow
from .._types import Point, PRNGKey, Time


class AbstractIntegrator(eqx.Module):
    """How a flow is integrated (a sampler): a Diffrax solver and its steps.

    To write an integrator of your own, derive a class from this one, implement `integrate`, and define:

    - `solver`: a field, the Diffrax solver. [`flowprop.function_evaluations`][] uses it to count calls.
    - `runs_backwards`: a class variable, whether it can also run from data to noise.
    - `has_likelihood`: a class variable, whether it solves the ODE of the flow, so that the end of a solve has a
      density. Such an integrator must derive from [`flowprop.AbstractODEIntegrator`][].
    """

    solver: eqx.AbstractVar[dfx.AbstractSolver]
    runs_backwards: eqx.AbstractClassVar[bool]
    has_likelihood: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
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
        - `key`: the random key for an integrator that draws random numbers; otherwise `None` is enough.
        - `throw`: whether a solve that fails raises an error. If not, the `result` of the solution says whether it
          failed. By default `True`.

        **Returns:** Diffrax's solution.
        """


class AbstractODEIntegrator(AbstractIntegrator):
    """An integrator of any ODE, including the ODE of a flow. Likelihoods need such an integrator.

    To write an integrator of your own, derive a class from this one, give it a field `solver`, and implement
    `integrate_field` and `refined`. The other methods call these two.
    """

    runs_backwards: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = True

    @abc.abstractmethod
    def integrate_field(
        self,
        field: Callable[..., PyTree],
        y: PyTree,
        args: PyTree,
        t0: Time,
        t1: Time,
        saveat: dfx.SaveAt | None = None,
        *,
        throw: bool = True,
    ) -> dfx.Solution:
        """Solve the ODE `dy/dt = field(t, y, args)`.

        **Arguments:**

        - `field`: a callable PyTree. An adjoint differentiates its leaves. It may miss arrays in a closure.
        - `y`: the state at `t0`, a PyTree of arrays.
        - `args`: the third argument of `field`.
        - `t0`, `t1`: the times of start and end. With `t0 > t1` the solve runs backwards.
        - `saveat`: which states to save. By default only the last.
        - `throw`: whether a solve that fails raises an error. If not, the `result` of the solution says whether it
          failed. By default `True`.

        **Returns:** Diffrax's solution.
        """

    @abc.abstractmethod
    def refined(self) -> "AbstractODEIntegrator":
        """Build a more accurate version of this integrator. The difference of both results is an error estimate.

        **Returns:** the more accurate integrator.

        **Raises:** `ValueError` if no more accurate version can be built.
        """

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
        """Solve the probability-flow ODE of one example from `t0` to `t1`.

        **Arguments:**

        - `flow`: the flow.
        - `z`: the point at `t0` in path coordinates, of the flow's `shape`.
        - `x`: the condition in the form that the network takes, after the flow's encoder.
        - `t0`, `t1`: the times of start and end, numbers or scalar arrays.
        - `saveat`: which states to save.
        - `key`: the random key; not used.
        - `throw`: whether a solve that fails raises an error. If not, the `result` of the solution says whether it
          failed. By default `True`.

        **Returns:** Diffrax's solution.
        """
        return self.integrate_field(VelocityField(flow), z, x, t0, t1, saveat, throw=throw)

    def end_point(self, field: Callable[..., PyTree], y: PyTree, args: PyTree, t0: Time, t1: Time) -> PyTree:
        """Solve the ODE `dy/dt = field(t, y, args)` and return only the state at `t1`.

        **Arguments:**

        - `field`: a callable PyTree. An adjoint differentiates its leaves. It may miss arrays in a closure.
        - `y`: the state at `t0`, a PyTree of arrays.
        - `args`: the third argument of `field`.
        - `t0`, `t1`: the times of start and end. With `t0 > t1` the solve runs backwards.

        **Returns:** the state at `t1`, with the structure of `y`.
        """
        return final_state(self.integrate_field(field, y, args, t0, t1))


class VelocityField(eqx.Module):
    """The velocity of a flow, the right-hand side of its ODE, as a callable PyTree."""

    flow: Flow

    def __call__(self, t: Time, z: Point, x: PyTree) -> Point:
        return self.flow.estimate(t, z, x).velocity


def as_times(t0: Time, t1: Time, y: PyTree) -> tuple[Array, Array]:
    """Convert both times to the precision of the state."""
    dtype = jnp.result_type(*jax.tree.leaves(y))
    return jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)


def final_state(solution: dfx.Solution) -> PyTree:
    """Return the state at the end of a solve that saved only this state."""
    return jax.tree.map(lambda saved: saved[0], solution.ys)


def succeeded(solution: dfx.Solution) -> Bool[Array, ""]:
    """Whether a solve reached its end: it did not fail, and no event stopped it."""
    return dfx.is_successful(solution.result)


@contextlib.contextmanager
def forward_mode_explained() -> Iterator[None]:
    """Replace JAX's error for a forward-mode derivative of a solve by one that names the remedy.

    Public functions use this context around the call of their compiled function. JAX raises the error there and not
    where it traces the solve.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error) or "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "the default adjoint of a solve has no forward-mode derivatives, which `jax.jvp`, `jax.jacfwd` and "
            "`jax.hessian` need: give `integrator=fp.ODEIntegrator(adjoint=dfx.DirectAdjoint())`, or "
            "`dfx.ForwardMode()` if you need only forward mode"
        ) from error
