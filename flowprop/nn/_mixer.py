"""An encoder of images that uses matrix products only."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, Real, check_key, check_positive, check_shape, checked
from ._conv import as_float
from ._linear import Linear


class _Perceptron(eqx.Module):
    """One hidden layer of twice the size. The output's variance is `gain^2` times the input's."""

    up: Linear
    down: Linear

    def __init__(self, size: int, gain: Real, *, key: PRNGKey) -> None:
        key_up, key_down = jax.random.split(key)
        self.up = Linear(size, 2 * size, gain=2.0**0.5, key=key_up)
        self.down = Linear(2 * size, size, gain=gain, key=key_down)

    def __call__(self, x: Float[Array, " size"]) -> Float[Array, " size"]:
        return self.down(jax.nn.relu(self.up(x)))


class _MixerBlock(eqx.Module):
    """`h + W_2 relu(W_1 h + b_1) + b_2` across the patches, then the same across the channels."""

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
    """The squares of `size` x `size` pixels at every `stride`-th position, row by row, each as a vector."""
    rows, columns = (
        stride * jnp.arange((side - size) // stride + 1)[:, None] + jnp.arange(size)[None] for side in image.shape[:2]
    )
    return image[rows[:, None, :, None], columns[None, :, None, :]].reshape(-1, size * size * image.shape[2])


class MixerEncoder(eqx.Module):
    """An encoder of images with perceptrons across patches and across channels (MLP-Mixer, Tolstikhin et al. 2021,
    [arXiv:2105.01601](https://arxiv.org/abs/2105.01601)).

    Two things differ from their equation 1: nothing is normalised, and the last dense layer reads all patches instead
    of their mean. The encoder uses matrix products only. They stay fast where convolutions do not: inside loops,
    and for several encoders stacked by `equinox.filter_vmap`.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    encoder = fp.nn.MixerEncoder(
        (28, 28, 1), features=16, patch_size=7, width=8, depth=1, key=jax.random.key(0)
    )
    images = jnp.zeros((5, 28, 28, 1), jnp.uint8)
    print(jax.vmap(encoder)(images).shape)  # (5, 16)
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `features`: the size of the output vector, 128 by default.
    - `patch_size`: the height and width of a patch in pixels, 4 by default.
    - `stride`: the distance from one patch to the next in pixels. By default `patch_size`, so that patches do not
      overlap.
    - `width`: the number of channels of each patch after the first layer, 64 by default.
    - `depth`: the number of blocks, 2 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, or the patches do not end at the image's edges.
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
                f"`patch_size` is {patch_size} and `stride` is {stride}: the patches do not end at the edges of an "
                f"image of shape {shape}"
            )
        num_patches = math.prod(count + 1 for count, _ in steps)
        # All blocks together add about as much variance as their input has.
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
        """The features of one image. Use `jax.vmap` for a batch.

        **Arguments:**

        - `image`: an image of the encoder's `shape`. Floating-point values are not changed; bytes (uint8) are
          divided by 255.

        **Returns:** a vector of `features` numbers.

        **Raises:** `ValueError` if the image has another shape.
        """
        check_shape("image", image, self.shape, "the encoder's `shape`: height, width, channels")
        h = jax.vmap(self.embed)(cut_patches(as_float(image), self.patch_size, self.stride))
        for block in self.blocks:
            h = block(h)
        return jax.nn.relu(self.dense(h.ravel()))
