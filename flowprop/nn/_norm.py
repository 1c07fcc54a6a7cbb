"""Normalisation that knows no batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Real, check_number, check_positive, check_shape, checked


class GroupNorm(eqx.Module):
    """Groups of channels brought to mean 0 and variance 1, over all places at once (Wu and He 2018, equations 1 and 2).

    `scale (x - mean) / sqrt(variance + eps) + bias`. One group over one place is layer normalisation.

    **Arguments:**

    - `channels`: how many, along the last axis.
    - `group_size`: how many of them form a group.
    - `gain`: the initial `scale` of every channel. At 0 the layer is silent until it has learned.
    - `eps`: added to the variance.

    **Raises:** `ValueError` for a number that is not positive and finite, a `group_size` that does not divide
    `channels` and, when called, for another number of channels.
    """

    scale: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    group_size: int = eqx.field(static=True)
    eps: Real = eqx.field(static=True)

    @checked
    def __init__(self, channels: int, group_size: int = 16, *, gain: Real = 1.0, eps: Real = 1e-5) -> None:
        check_positive(channels=channels, group_size=group_size)
        if channels % group_size:
            raise ValueError(f"`group_size` is {group_size}: give a divisor of `channels`, {channels}")
        check_number("gain", gain, remedy="give a finite number")
        check_number("eps", eps, above=0, remedy="give a positive, finite number")
        self.scale = jnp.full(channels, float(gain))
        self.bias = jnp.zeros(channels)
        self.group_size = group_size
        self.eps = eps

    @checked
    def __call__(self, x: Float[Array, "*places channels"]) -> Float[Array, "*places channels"]:
        """The normalised values of one example, such as an image `(height, width, channels)`."""
        (channels,) = self.scale.shape
        check_shape("x", x, (*x.shape[:-1], channels), "the layer's `channels` come last")
        groups = x.reshape(-1, channels // self.group_size, self.group_size)
        mean = jnp.mean(groups, axis=(0, 2), keepdims=True)
        variance = jnp.var(groups, axis=(0, 2), keepdims=True)
        normal = ((groups - mean) * jax.lax.rsqrt(variance + self.eps)).reshape(-1, channels)
        return (normal * self.scale[None] + self.bias[None]).reshape(x.shape)
