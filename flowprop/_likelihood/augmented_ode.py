"""The ODE of a flow, with the integral of its divergence as a further state."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._divergence import AbstractDivergence
from .._flow.flow import Flow
from .._types import Point, PRNGKey, Scalar, Time


#: A point, and the integrals of independent estimates of the divergence so far.
State = tuple[Point, Float[Array, " estimates"]]


class AugmentedVelocity(eqx.Module):
    """The velocity and estimates of its divergence: along the flow `d log p/dt = -div v`.

    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8.) All estimates share one evaluation of the network.
    Each has probes of its own, which are drawn once for a solve.
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
        """The state at the start of a solve: `z`, and integrals of 0."""
        return z, jnp.broadcast_to(batched_zero(z), len(self.probes))

    def __call__(self, t: Time, state: State, x: PyTree) -> State:
        def velocity(z: Point) -> Point:
            return self.flow.estimate(t, z, x).velocity

        value, product = jax.linearize(velocity, state[0])
        return value, jax.vmap(lambda probes: self.divergence.trace(product, probes))(self.probes)


def batched_zero(z: Point) -> Scalar:
    """A zero that is batched under `vmap`, because it depends on `z`.

    An unbatched initial state receives wrong gradients from Equinox's checkpointed while loop under `vmap`: each
    example gets the gradient of the whole batch. This happens if the divergence does not depend on the point, so that
    nothing else makes its integral batched.
    """
    return 0 * z.ravel()[0]
