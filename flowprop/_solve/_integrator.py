"""What an integrator is."""

import abc

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._flow import Flow
from .._types import Point, PRNGKey, Time


class AbstractIntegrator(eqx.Module):
    """How a flow is integrated: a Diffrax solver and its steps."""

    solver: eqx.AbstractVar[dfx.AbstractSolver]

    @abc.abstractmethod
    def integrate(
        self, flow: Flow, z: Point, x: PyTree, t0: Time, t1: Time, saveat: dfx.SaveAt, key: PRNGKey | None
    ) -> dfx.Solution:
        """One example's solution from `t0` to `t1`."""


def as_times(t0: Time, t1: Time, y: PyTree) -> tuple[Array, Array]:
    """Both times, in the precision of the state."""
    dtype = jnp.result_type(*jax.tree.leaves(y))
    return jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)


def end_state(solution: dfx.Solution) -> PyTree:
    """The state at the end of a solve that saved nothing else."""
    return jax.tree.map(lambda saved: saved[0], solution.ys)


def succeeded(solution: dfx.Solution) -> Bool[Array, ""]:
    """Whether a solve came to its end."""
    return dfx.is_successful(solution.result)
