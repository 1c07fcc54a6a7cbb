"""Normalisation within one example, without a batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Real, check_number, check_positive, check_shape, checked


class GroupNorm(eqx.Module):
    """Group normalisation: `scale (x - mean) / sqrt(variance + eps) + bias` (Wu and He 2018,
    [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), equations 1 and 2).

    Mean and variance are taken over one group of neighbouring channels and over all pixels of one example; `scale` and
    `bias` are trained, one number for each channel. For an input without pixels, of shape `(channels,)`, and a single
    group this is layer normalisation.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    norm = fp.nn.GroupNorm(channels=4, group_size=2)
    image = jnp.arange(36.0).reshape(3, 3, 4)
    out = norm(image)
    print(out.shape)  # (3, 3, 4)
    print(jnp.round(out[..., :2].std(), 3))  # 1.0
    ```

    **Arguments:**

    - `channels`: the number of channels, on the last axis.
    - `group_size`: the number of channels in one group, a divisor of `channels`, 16 by default.
    - `gain`: the initial `scale` of every channel, 1 by default. With 0 the layer returns 0 until it is trained.
    - `eps`: a positive number added to the variance, 1e-5 by default.

    **Raises:** `ValueError` if `channels`, `group_size` or `eps` is not positive, `gain` or `eps` is not finite, or
    `group_size` does not divide `channels`.
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
        """The normalised values of one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `x`: an array with the channels on its last axis, such as an image `(height, width, channels)`.

        **Returns:** an array of the same shape.

        **Raises:** `ValueError` if `x` has another number of channels.
        """
        (channels,) = self.scale.shape
        check_shape("x", x, (*x.shape[:-1], channels), "the layer's `channels` come last")
        groups = x.reshape(-1, channels // self.group_size, self.group_size)
        mean = jnp.mean(groups, axis=(0, 2), keepdims=True)
        variance = jnp.var(groups, axis=(0, 2), keepdims=True)
        normal = ((groups - mean) * jax.lax.rsqrt(variance + self.eps)).reshape(-1, channels)
        return (normal * self.scale[None] + self.bias[None]).reshape(x.shape)
