"""An encoder of images made of matrix products only."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, Real, check_key, check_positive, check_shape, checked
from ._conv import as_float
from ._linear import Linear


class _Perceptron(eqx.Module):
    """One hidden layer, twice as wide; the variance of the output is `gain^2` times that of the input."""

    up: Linear
    down: Linear

    def __init__(self, size: int, gain: Real, *, key: PRNGKey) -> None:
        key_up, key_down = jax.random.split(key)
        self.up = Linear(size, 2 * size, gain=2.0**0.5, key=key_up)
        self.down = Linear(2 * size, size, gain=gain, key=key_down)

    def __call__(self, x: Float[Array, " size"]) -> Float[Array, " size"]:
        return self.down(jax.nn.relu(self.up(x)))


class _MixerBlock(eqx.Module):
    """`h + W_2 relu(W_1 h)` across the patches, then the same across their channels."""

    patches: _Perceptron
    channels: _Perceptron

    def __init__(self, num_patches: int, width: int, gain: Real, *, key: PRNGKey) -> None:
        key_patches, key_channels = jax.random.split(key)
        self.patches = _Perceptron(num_patches, gain, key=key_patches)
        self.channels = _Perceptron(width, gain, key=key_channels)

    def __call__(self, h: Float[Array, "patches width"]) -> Float[Array, "patches width"]:
        h = h + jax.vmap(self.patches, in_axes=1, out_axes=1)(h)
        return h + jax.vmap(self.channels)(h)


def cut_patches(
    image: Float[Array, "height width channels"], size: int, stride: int
) -> Float[Array, "patches numbers"]:
    """Every `stride`-th square of `size` pixels, row by row, each as a vector."""
    rows, columns = (
        stride * jnp.arange((side - size) // stride + 1)[:, None] + jnp.arange(size)[None] for side in image.shape[:2]
    )
    return image[rows[:, None, :, None], columns[None, :, None, :]].reshape(-1, size * size * image.shape[2])


class MixerEncoder(eqx.Module):
    """Perceptrons across the patches of an image, and across their channels (MLP-mixer, Tolstikhin et al. 2021).

    Unlike there (equation 1), nothing is normalised, and the dense layer sees all patches, not their mean. It
    consists of matrix products, which stay fast where convolutions do not: in loops, and stacked by `eqx.filter_vmap`.

    **Arguments:**

    - `shape`: `(height, width, channels)` of one image.
    - `features`: how many numbers come out.
    - `patch_size`: height and width of a patch.
    - `stride`: from one patch to the next. By default `patch_size`: patches do not overlap.
    - `width`: channels of each patch.
    - `depth`: how many blocks.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a number that is not positive, if the patches do not end at the image's edges and,
    when called, for an image of another shape.
    """

    embed: Linear
    blocks: tuple[_MixerBlock, ...]
    dense: Linear
    shape: tuple[int, int, int] = eqx.field(static=True)
    patch_size: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int = 128,
        *,
        patch_size: int = 4,
        stride: int | None = None,
        width: int = 64,
        depth: int = 2,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        stride = patch_size if stride is None else stride
        check_positive(features=features, patch_size=patch_size, stride=stride, width=width, depth=depth)
        if min(shape) < 1:
            raise ValueError(f"`shape` is {shape}: give positive sizes")
        steps = [divmod(side - patch_size, stride) for side in shape[:2]]
        if any(count < 0 or rest for count, rest in steps):
            raise ValueError(
                f"`patch_size` is {patch_size} and `stride` {stride}: such patches do not end at the edges of {shape}"
            )
        num_patches = math.prod(count + 1 for count, _ in steps)
        # All blocks together add about as much variance as there is.
        gain = (2 * depth) ** -0.5
        key_embed, key_dense, key = jax.random.split(key, 3)
        self.embed = Linear(patch_size**2 * shape[2], width, key=key_embed)
        self.blocks = tuple(_MixerBlock(num_patches, width, gain, key=k) for k in jax.random.split(key, depth))
        self.dense = Linear(num_patches * width, features, gain=2.0**0.5, key=key_dense)
        self.shape = shape
        self.patch_size = patch_size
        self.stride = stride

    @checked
    def __call__(self, image: Image) -> Float[Array, " features"]:
        """The features of one image: floating-point values as they are, bytes divided by 255."""
        check_shape("image", image, self.shape, "the encoder's `shape`: height, width, channels")
        h = jax.vmap(self.embed)(cut_patches(as_float(image), self.patch_size, self.stride))
        for block in self.blocks:
            h = block(h)
        return jax.nn.relu(self.dense(h.ravel()))
