"""What an integrator is."""

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
    """How a flow is integrated: a Diffrax solver and its steps.

    A class of your own says what its solver is, implements `integrate`, and sets two class variables:

    - `runs_backwards`: whether it also goes from data to noise.
    - `has_likelihood`: whether it solves the ODE of the flow, so that its end has a density. Such an integrator
      derives from [`flowprop.AbstractODEIntegrator`][].
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
        """One example's solution from `t0` to `t1`.

        **Arguments:**

        - `flow`: the flow.
        - `z`: where the path begins, of the flow's `shape`.
        - `x`: the condition that the network takes.
        - `t0`, `t1`: the times of start and end.
        - `saveat`: what to keep.
        - `key`: for an integrator that draws random numbers.
        - `throw`: whether a solve that fails raises an error. If not, its `result` says so.

        **Returns:** Diffrax's solution.
        """


class AbstractODEIntegrator(AbstractIntegrator):
    """How any ODE is integrated, and so that of a flow: what likelihoods need.

    A class of your own implements `integrate_field` and `refined`; all else is built on these.
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
        """The solution of the ODE `dy/dt = field(t, y, args)`.

        **Arguments:**

        - `field`: a callable PyTree. An adjoint differentiates its leaves; it may miss what a closure holds.
        - `y`: the state at `t0`, a PyTree of arrays.
        - `args`: what the field takes besides.
        - `t0`, `t1`: the times of start and end; `t0 > t1` solves backwards.
        - `saveat`: what to keep. By default the end alone.
        - `throw`: whether a solve that fails raises an error. If not, its `result` says so.

        **Returns:** Diffrax's solution.
        """

    @abc.abstractmethod
    def refined(self) -> "AbstractODEIntegrator":
        """A more accurate version of this integrator: the difference between both is an error estimate.

        **Raises:** `ValueError` if none is known.
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
        """One example's solution from `t0` to `t1`."""
        return self.integrate_field(VelocityField(flow), z, x, t0, t1, saveat, throw=throw)

    def end_point(self, field: Callable[..., PyTree], y: PyTree, args: PyTree, t0: Time, t1: Time) -> PyTree:
        """The state at `t1` of the ODE that `integrate_field` solves."""
        return final_state(self.integrate_field(field, y, args, t0, t1))


class VelocityField(eqx.Module):
    """The right side of a flow's ODE, as a PyTree."""

    flow: Flow

    def __call__(self, t: Time, z: Point, x: PyTree) -> Point:
        return self.flow.estimate(t, z, x).velocity


def as_times(t0: Time, t1: Time, y: PyTree) -> tuple[Array, Array]:
    """Both times, in the precision of the state."""
    dtype = jnp.result_type(*jax.tree.leaves(y))
    return jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)


def final_state(solution: dfx.Solution) -> PyTree:
    """The state at the end of a solve that saved nothing else."""
    return jax.tree.map(lambda saved: saved[0], solution.ys)


def succeeded(solution: dfx.Solution) -> Bool[Array, ""]:
    """Whether a solve came to its end: neither failed nor stopped by an event."""
    return dfx.is_successful(solution.result)


@contextlib.contextmanager
def forward_mode_explained() -> Iterator[None]:
    """Name the remedy where JAX refuses a forward-mode derivative of a solve.

    JAX raises the error where a compiled function is called under the derivative, not where the solve is traced:
    this belongs around the call of an entry point's compiled function.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error) or "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "the default adjoint of a solve has no forward-mode derivatives, such as `jax.jvp`, `jax.jacfwd` and "
            "`jax.hessian` take: give `integrator=fp.ODEIntegrator(adjoint=dfx.DirectAdjoint())`, or "
            "`dfx.ForwardMode()` for forward mode alone"
        ) from error
