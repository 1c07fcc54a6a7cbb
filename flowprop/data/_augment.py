"""Augmentations: random changes of one training image that do not change its class."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, Real, checked


@checked
class RandomCrop(eqx.Module):
    """Pads the image with zeros on all sides, and cuts out an image of the original size at a random position.

    All `(2 padding + 1)^2` positions are equally likely (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), section 4.2).

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    crop = fp.data.RandomCrop(padding=2)
    image = jnp.ones((8, 8, 3))
    print(crop(image, key=jax.random.key(0)).shape)  # (8, 8, 3)
    ```

    **Arguments:**

    - `padding`: the number of pixels added on each side, 4 by default.

    **Raises:** `ValueError` if `padding` is negative.
    """

    padding: int = eqx.field(default=4, static=True)

    def __check_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"`padding` is {self.padding}: give a number of pixels, 0 or more")

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """The changed image. Use `jax.vmap` for a batch, with one key for each image.

        **Arguments:**

        - `image`: an image `(height, width, channels)`, uint8 or floating-point.
        - `key`: a typed key, `jax.random.key(seed)`.

        **Returns:** an image of the same shape and dtype.
        """
        frame = (self.padding, self.padding)
        padded = jnp.pad(image, (frame, frame, (0, 0)))
        row, column = jax.random.randint(key, (2,), 0, 2 * self.padding + 1)
        return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


@checked
class RandomFlip(eqx.Module):
    """Exchanges left and right with probability 1/2. Do not use it for digits or letters.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flip = fp.data.RandomFlip()
    image = jnp.arange(3.0).reshape(1, 3, 1)
    flipped = flip(image, key=jax.random.key(0))
    print(flipped.shape)  # (1, 3, 1)

    # A batch, with a key for each image: about half of the images are flipped.
    images = jnp.broadcast_to(image, (1000, 1, 3, 1))
    keys = jax.random.split(jax.random.key(1), 1000)
    results = jax.vmap(lambda image, key: flip(image, key=key))(images, keys)
    print(0.4 < jnp.mean(results[:, 0, 0] == 2) < 0.6)  # True
    ```
    """

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """The changed image. Use `jax.vmap` for a batch, with one key for each image.

        **Arguments:**

        - `image`: an image `(height, width, channels)`, uint8 or floating-point.
        - `key`: a typed key, `jax.random.key(seed)`.

        **Returns:** an image of the same shape and dtype.
        """
        return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


@checked
class RandomAffine(eqx.Module):
    """Rotates and scales the image about its centre, then shifts it, each by a random amount.

    Every amount is uniform in its range. With the angle `a`, the scale `s`, the shift `b` and the centre `c`, the new
    image at the pixel `p` is the old image at `c + R(-a) (p - b - c) / s`. Values between pixels are interpolated
    bilinearly; values outside of the image are 0. The results are rounded if the image is uint8.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    step = fp.data.RandomAffine(degrees=15, scale=(0.9, 1.1), translate=2)
    image = jnp.ones((28, 28, 1))
    print(step(image, key=jax.random.key(0)).shape)  # (28, 28, 1)
    ```

    **Arguments:**

    - `degrees`: the largest angle of rotation in degrees, in both directions, 0 by default.
    - `scale`: the smallest and the largest scale, `(1, 1)` by default. A scale above 1 enlarges.
    - `translate`: the largest shift in pixels, along each axis and in both directions, 0 by default.

    **Raises:** `ValueError` if `degrees` or `translate` is negative or not finite, or `scale` is not a rising range of
    positive numbers.
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
        """The changed image. Use `jax.vmap` for a batch, with one key for each image.

        **Arguments:**

        - `image`: an image `(height, width, channels)`, uint8 or floating-point.
        - `key`: a typed key, `jax.random.key(seed)`.

        **Returns:** an image of the same shape and dtype.
        """
        angle_key, scale_key, shift_key = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, minval=-self.degrees, maxval=self.degrees) * (math.pi / 180)
        scale = jax.random.uniform(scale_key, minval=self.scale[0], maxval=self.scale[1])
        shift = jax.random.uniform(shift_key, (2,), minval=-self.translate, maxval=self.translate)
        return affine(image, angle, scale, shift)


def affine(image: Image, angle: Float[Array, ""], scale: Float[Array, ""], shift: Float[Array, "2"]) -> Image:
    """The image rotated anticlockwise by `angle` (radians), scaled, then shifted by rows and columns."""
    height, width, _ = image.shape
    row = jnp.arange(height)[:, None] - (height - 1) / 2 - shift[0]
    column = jnp.arange(width)[None, :] - (width - 1) / 2 - shift[1]
    row, column = jnp.broadcast_arrays(row, column)
    # Rows are counted downwards, so the axes are left-handed, and the sign of the angle is reversed.
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    places = [cos * row + sin * column + (height - 1) / 2, cos * column - sin * row + (width - 1) / 2]

    def channel(pixels: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(pixels, places, order=1)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


@checked
class Augmentation(eqx.Module):
    """Applies several random changes in order, each with its own key.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    augment = fp.data.Augmentation(fp.data.RandomCrop(padding=4), fp.data.RandomFlip())
    image = jnp.zeros((32, 32, 3), jnp.uint8)
    print(augment(image, key=jax.random.key(0)).shape)  # (32, 32, 3)
    ```

    Pass it to [`flowprop.fit`][] as `augment=augment`.

    **Arguments:**

    - `steps`: callables `step(image, key=key)` on one image, given one after another. Each returns an image of the same
      shape and dtype.
    """

    steps: tuple[Callable[..., Array], ...]

    def __init__(self, *steps: Callable[..., Array]) -> None:
        self.steps = steps

    @checked
    def __call__(self, image: Image, *, key: PRNGKey) -> Image:
        """The changed image. Use `jax.vmap` for a batch, with one key for each image.

        **Arguments:**

        - `image`: an image `(height, width, channels)`, uint8 or floating-point.
        - `key`: a typed key, `jax.random.key(seed)`.

        **Returns:** an image of the same shape and dtype.
        """
        for step, step_key in zip(self.steps, jax.random.split(key, len(self.steps)), strict=True):
            image = step(image, key=step_key)
        return image
