"""The noise with which a flow starts, and what needs it to be gaussian.

(`Flow` uses these functions, so this file cannot import it.)
"""

from typing import Any

import jax.numpy as jnp

from .._types import Point, Scalar


def noise_std(flow: Any) -> Scalar:
    """The standard deviation at the start of the span of a path of unit data.

    It is the factor of the source's draws: 1 at t = 0 and on a variance-preserving path, and less than 1 on a straight
    path whose span begins later.
    """
    start = flow.span[0]
    return jnp.hypot(flow.path.alpha(start), flow.path.sigma(start))


def noise_log_prob(flow: Any, z: Point) -> Scalar:
    """The log-density, at the start of the span, of what `Flow.draw_noise` draws; in nats."""
    std = noise_std(flow).astype(z.dtype)
    return flow.source.log_prob(z / std) - z.size * jnp.log(std)


def check_gaussian(flow: Any, what: str) -> None:
    """Raise a `ValueError` unless noise is gaussian given the data: `what` needs it."""
    for name, part, fits, wanted in (
        ("source", flow.source, flow.source.is_gaussian, "GaussianSource"),
        ("coupling", flow.coupling, flow.coupling.is_independent, "IndependentCoupling"),
    ):
        if not fits:
            raise ValueError(
                f"`{name}` of the flow is {type(part).__name__}: {what} needs noise that is "
                f"gaussian given the data, `fp.{wanted}()`; the ODE does not"
            )
