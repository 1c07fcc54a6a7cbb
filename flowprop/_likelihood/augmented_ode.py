"""A flow's ODE with its divergence for further states."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._divergence import AbstractDivergence
from .._flow.flow import Flow
from .._types import Point, PRNGKey, Scalar, Time


#: A point, and what independent estimates of the divergence have added up to.
State = tuple[Point, Float[Array, " estimates"]]


class AugmentedVelocity(eqx.Module):
    """The velocity, and estimates of its divergence: along the flow `d log p/dt = -div v` (Chen et al. 2018, eq. 8).

    The estimates share one evaluation of the network; each has probes of its own, drawn once for a solve.
    """

    flow: Flow
    divergence: AbstractDivergence
    probes: Float[Array, "estimates probes *shape"]

    def __init__(
        self, flow: Flow, divergence: AbstractDivergence, z: Point, *, key: PRNGKey | None, num_estimates: int = 1
    ) -> None:
        keys = [key] if key is None or num_estimates == 1 else jax.random.split(key, num_estimates)
        self.flow = flow
        self.divergence = divergence
        self.probes = jnp.stack([divergence.draw(z, key=key) for key in keys])

    def start(self, z: Point) -> State:
        """The state at `z`, where nothing has been added up."""
        return z, jnp.broadcast_to(batched_zero(z), len(self.probes))

    def __call__(self, t: Time, state: State, x: PyTree) -> State:
        def velocity(z: Point) -> Point:
            return self.flow.estimate(t, z, x).velocity

        value, product = jax.linearize(velocity, state[0])
        return value, jax.vmap(lambda probes: self.divergence.trace(product, probes))(self.probes)


def batched_zero(z: Point) -> Scalar:
    """0, of which each example of a batch has one of its own.

    Under `vmap` a state that all examples share, where a divergence does not depend on the point, would be given
    the gradient of the whole batch once for each example: Equinox's checkpointed loop gets that wrong.
    """
    return 0 * z.ravel()[0]
