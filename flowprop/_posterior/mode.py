"""Gradient ascent of a flow's density within the support of a prior."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .._devices import compiled
from .._divergence import AbstractDivergence
from .._flow.flow import Flow
from .._likelihood.log_prob import log_prob
from .._solve import AbstractODEIntegrator
from .._types import Point, PRNGKey, Scalar
from .ensemble import mixture
from .prior import WithSupport


@compiled
def climb(
    flows: Sequence[Flow],
    prior: WithSupport,
    starts: Float[Array, "starts *shape"],
    scale: Float[Array, "*shape"],
    steps: int,
    integrator: AbstractODEIntegrator,
    divergence: AbstractDivergence,
    key: PRNGKey,
) -> Point:
    """The best point on the paths of several gradient ascents, by Adam in units of `scale`."""

    def density(u: Float[Array, "starts *shape"]) -> tuple[Scalar, Float[Array, " starts"]]:
        values = mixture(
            [
                log_prob(flow, u * scale[None], key=key, divergence=divergence, integrator=integrator, throw=False)
                for flow in flows
            ]
        )
        return jnp.sum(values), values

    # The last steps are short, so that a path comes close to a maximum on the edge of the support.
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        u, state, best, best_value = carry
        gradient, values = jax.grad(density, has_aux=True)(u)
        better = values > best_value
        best = jnp.where(better.reshape(-1, *[1] * (u.ndim - 1)), u, best)
        updates, state = optimiser.update(-jnp.nan_to_num(gradient), state)
        proposal = jax.vmap(lambda old, new: stay_inside(prior, old, new, scale))(u, u + updates)
        return (proposal, state, best, jnp.where(better, values, best_value)), None

    u = starts / scale[None]
    start = (u, optimiser.init(u), u, jnp.full(len(u), -jnp.inf))
    (_, _, best, values), _ = jax.lax.scan(step, start, None, length=steps)
    return best[jnp.argmax(values)] * scale


def stay_inside(prior: WithSupport, old: Point, new: Point, scale: Point) -> Point:
    """The step from `old` to `new`, in units of `scale`, without the coordinates in which it leaves the support."""
    alone = jnp.where(jnp.eye(old.size, dtype=bool), new.ravel()[None], old.ravel()[None])
    stays = prior.in_support(alone.reshape(-1, *old.shape) * scale[None]).reshape(old.shape)
    together = jnp.where(stays, new, old)
    return jnp.where(prior.in_support(together * scale), together, old)
