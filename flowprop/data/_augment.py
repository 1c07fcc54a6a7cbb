"""Random changes of one training image that leave its class as it is."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, Real, checked


@checked
class RandomCrop(eqx.Module):
    """The image in a frame of zeros, cut out anew at a random place: all `(2 padding + 1)^2` are equally likely.

    **Arguments:**

    - `padding`: the frame's width in pixels.

    **Raises:** `ValueError` if `padding` is negative.
    """

    padding: int = eqx.field(default=4, static=True)

    def __check_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"`padding` is {self.padding}: give a number of pixels, 0 or more")

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """One image, `(height, width, channels)`, uint8 or float; the same comes back."""
        frame = (self.padding, self.padding)
        padded = jnp.pad(image, (frame, frame, (0, 0)))
        row, column = jax.random.randint(key, (2,), 0, 2 * self.padding + 1)
        return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


@checked
class RandomFlip(eqx.Module):
    """The image, or with probability 1/2 its mirror image, left for right. Not for digits or letters."""

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """One image, `(height, width, channels)`, uint8 or float; the same comes back."""
        return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


@checked
class RandomAffine(eqx.Module):
    """The image rotated and scaled about its centre, then shifted, each by a random amount, uniform in its range.

    With the angle `a`, the scale `s`, the shift `b` and the centre `c`, the new image at the pixel `p` is the old one
    at `c + R(-a) (p - b - c) / s`: between pixels by bilinear interpolation, zero outside. Pixels of uint8 are rounded.

    **Arguments:**

    - `degrees`: the largest angle, in either direction.
    - `scale`: the smallest and the largest scale; more than 1 enlarges.
    - `translate`: the largest shift in pixels, along each axis and in either direction.

    **Raises:** `ValueError` if `degrees` or `translate` is negative, or `scale` is not a range of positive numbers.
    """

    degrees: Real = eqx.field(default=0.0, static=True)
    scale: tuple[Real, Real] = eqx.field(default=(1.0, 1.0), static=True)
    translate: Real = eqx.field(default=0.0, static=True)

    def __check_init__(self) -> None:
        for name, value in {"degrees": self.degrees, "translate": self.translate}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"`{name}` is {value}: give the largest amount, 0 or more")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"`scale` is {self.scale}: give the smallest and the largest scale, both positive")

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """One image, `(height, width, channels)`, uint8 or float; the same comes back."""
        angle_key, scale_key, shift_key = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, minval=-self.degrees, maxval=self.degrees) * (math.pi / 180)
        scale = jax.random.uniform(scale_key, minval=self.scale[0], maxval=self.scale[1])
        shift = jax.random.uniform(shift_key, (2,), minval=-self.translate, maxval=self.translate)
        return affine(image, angle, scale, shift)


def affine(image: Image, angle: Float[Array, ""], scale: Float[Array, ""], shift: Float[Array, "2"]) -> Image:
    """The image turned anticlockwise by `angle` (radians), scaled, then shifted by rows and columns."""
    height, width, _ = image.shape
    row = jnp.arange(height)[:, None] - (height - 1) / 2 - shift[0]
    column = jnp.arange(width)[None, :] - (width - 1) / 2 - shift[1]
    row, column = jnp.broadcast_arrays(row, column)
    # Rows count downwards: the sense of rotation is that of a left-handed pair of axes.
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    places = [cos * row + sin * column + (height - 1) / 2, cos * column - sin * row + (width - 1) / 2]

    def channel(pixels: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(pixels, places, order=1)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


@checked
class Augmentation(eqx.Module):
    """One change after another, each with a key of its own.

    **Arguments:**

    - `steps`: callables `step(image, key=key)` on one image that keep its shape and type.
    """

    steps: tuple[Callable[..., Array], ...]

    def __init__(self, *steps: Callable[..., Array]) -> None:
        self.steps = steps

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """One image, `(height, width, channels)`, uint8 or float; the same comes back."""
        for step, step_key in zip(self.steps, jax.random.split(key, len(self.steps)), strict=True):
            image = step(image, key=step_key)
        return image
