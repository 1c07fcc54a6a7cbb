"""The probability-flow ODE, solved with the classical Runge-Kutta method: a reference that uses no solver library."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._path.span import derivative
from ._mixture import Mixture


State = tuple[Array, Array]
#: The times of the stages within a step, and their weights.
_NODES, _WEIGHTS = np.array([0, 1 / 2, 1 / 2, 1]), np.array([1, 2, 2, 1]) / 6


def coefficients(path: Any, times: Float[np.ndarray, "*times"]) -> Float[np.ndarray, "*times 4"]:
    """`alpha`, `sigma` and their derivatives, always in double precision."""
    with jax.enable_x64(True):
        t = jnp.asarray(times, float)
        slopes = [derivative(function, t) for function in (path.alpha, path.sigma)]
        return np.stack([np.asarray(value) for value in (path.alpha(t), path.sigma(t), *slopes)], axis=-1)


class Grid(NamedTuple):
    """The step sizes of a solve, and the coefficients of the path at the stages."""

    steps: Float[np.ndarray, " steps"]
    coefficients: Float[np.ndarray, "steps stages 4"]

    @property
    def backwards(self) -> "Grid":
        """The same grid, from the end to the start."""
        return Grid(-self.steps[::-1], self.coefficients[::-1, ::-1])


def grid(path: Any, span: tuple[float, float], num_steps: int) -> Grid:
    """Steps over a span. They are smaller near both ends, where the velocity changes fastest."""
    start, end = span
    times = start + (end - start) * (1 - np.cos(np.linspace(0, np.pi, num_steps + 1))) / 2
    steps = np.diff(times)
    return Grid(steps, coefficients(path, times[:-1, None] + steps[:, None] * _NODES))


def carry(
    data: Mixture, grid: Grid, z: Float[Array | np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """The end points of the ODE and the integral of the divergence along each trajectory, in double precision.

    The program depends on the path only through its coefficients, so that all paths share one compiled program.
    """
    with jax.enable_x64(True):
        end, change = _carry(data, *map(jnp.asarray, grid), jnp.asarray(np.asarray(z), float))
        return np.asarray(end), np.asarray(change)


@jax.jit
def _carry(data: Mixture, steps: Array, coefficients: Array, z: Array) -> State:
    def field(coefficients: Array, state: State) -> State:
        def velocity(z: Array) -> Array:
            return data.velocity(coefficients, z)

        return velocity(state[0]), jnp.trace(jax.jacfwd(velocity)(state[0]))

    def step(state: State, inputs: tuple[Array, Array]) -> tuple[State, None]:
        h, coefficients = inputs

        def stage(carry: tuple[State, State], inputs: tuple[Array, Array, Array]) -> tuple[tuple[State, State], None]:
            (slope, total), (coefficients, node, weight) = carry, inputs
            slope = field(coefficients, jax.tree.map(lambda y, k: y + node * h * k, state, slope))
            return (slope, jax.tree.map(lambda y, k: y + weight * h * k, total, slope)), None

        rest = jax.tree.map(jnp.zeros_like, state)
        (_, total), _ = jax.lax.scan(stage, (rest, state), (coefficients, jnp.asarray(_NODES), jnp.asarray(_WEIGHTS)))
        return total, None

    def one(z: Array) -> State:
        return jax.lax.scan(step, (z, jnp.zeros((), z.dtype)), (steps, coefficients))[0]

    return jax.vmap(one)(z)
