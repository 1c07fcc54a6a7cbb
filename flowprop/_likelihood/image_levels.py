"""Levels of images as real numbers: uniform dequantisation, and rounding back."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

from .._types import PRNGKey, is_traced


Levels = Integer[Array | np.ndarray, "*shape"]


def check_levels(images: Levels, num_levels: int) -> None:
    """Raise a `ValueError` if a known level is below 0 or not below `num_levels`."""
    if is_traced(images) or not images.size:
        return
    low, high = np.min(images), np.max(images)
    if low < 0 or high >= num_levels:
        raise ValueError(f"`images` lie in [{low}, {high}]: the protocol has levels 0 to {num_levels - 1}")


def dequantised(images: Levels, *, key: PRNGKey) -> Float[Array, "*shape"]:
    """Add noise that is uniform on [0, 1)."""
    levels = jnp.asarray(images, float)
    # The middles of 4096 parts of a level, which no rounding moves into the next level.
    return levels + (jax.random.randint(key, levels.shape, 0, 4096) + 0.5) / 4096


def nearest_levels(z: Float[Array, "*shape"], num_levels: int) -> UInt8[Array, "*shape"]:
    """Round down to levels, and clip to their range."""
    return jnp.clip(jnp.floor(z), 0, num_levels - 1).astype(jnp.uint8)
