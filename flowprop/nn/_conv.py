"""Convolutional networks with channels last, the layout in which XLA's CPU loops stay fast."""

from collections.abc import Callable
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, check_key, check_positive, check_shape, checked
from ._linear import Linear


class Conv(eqx.Module):
    """A two-dimensional convolution of `(height, width, channels)`, padded to keep the size.

    **Arguments:**

    - `in_channels`, `out_channels`: how many.
    - `kernel_size`: its height and width.
    - `stride`: in both directions.
    - `use_bias`: whether a number is added to each channel of the output; a normalisation that follows has its own.
    - `key`: for the weights, which are normal with variance `2 / fan-in`.

    **Raises:** `ValueError` for a number that is not positive and, when called, for an image of other channels.
    """

    kernel: Float[Array, "size size in_channels out_channels"]
    bias: Float[Array, " out_channels"] | None
    stride: int = eqx.field(static=True)

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        use_bias: bool = True,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        check_positive(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = (2 / (kernel_size**2 * in_channels)) ** 0.5 * jax.random.normal(key, shape)
        self.bias = jnp.zeros(out_channels) if use_bias else None
        self.stride = stride

    @checked
    def __call__(self, image: Float[Array, "height width in_channels"]) -> Float[Array, "rows columns out_channels"]:
        """The image of one image."""
        check_shape("image", image, (None, None, self.kernel.shape[2]), "the layer's `in_channels` come last")
        strides = (self.stride, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        # Unlike a product of matrices, a convolution does not promote its arguments.
        dtype = jnp.promote_types(image.dtype, self.kernel.dtype)
        images, kernel = image[None].astype(dtype), self.kernel.astype(dtype)
        (out,) = jax.lax.conv_general_dilated(images, kernel, strides, "SAME", dimension_numbers=layout)
        return out if self.bias is None else out + self.bias[None, None]


def as_float(image: Image) -> Float[Array, "height width channels"]:
    """Floating-point values as they are, bytes divided by 255."""
    return image.astype(float) / 255 if image.dtype == jnp.uint8 else image


def max_pool(image: Float[Array, "height width channels"]) -> Float[Array, "rows columns channels"]:
    """The maximum of each 2 x 2 block; an odd last row or column is dropped.

    A reshape: the gradient of XLA's windowed maximum is slow on a CPU.
    """
    height, width, channels = image.shape
    even = image[: height // 2 * 2, : width // 2 * 2]
    return even.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))


class ConvEncoder(eqx.Module):
    """A small convolutional encoder: convolutions, each made smaller by pooling or strides, and one dense layer.

    **Arguments:**

    - `shape`: `(height, width, channels)` of one image.
    - `features`: how many numbers come out.
    - `channels`: of each convolution, one after another.
    - `kernel_size`: of the convolutions.
    - `stride`: of the convolutions. Strides of 2 without pooling are several times quicker, and a little less accurate.
    - `pool`: what follows each convolution, on one image; `None` for nothing. By default the maximum of 2 x 2.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a number that is not positive, if nothing is left of an image so small and,
    when called, for an image of another shape.
    """

    convolutions: tuple[Conv, ...]
    dense: Linear
    pool: Callable[[Array], Array]
    shape: tuple[int, int, int] = eqx.field(static=True)

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int = 128,
        *,
        channels: tuple[int, ...] = (32, 64),
        kernel_size: int = 3,
        stride: int = 1,
        pool: Callable[[Array], Array] | None = max_pool,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        check_positive(features=features, kernel_size=kernel_size, stride=stride)
        if min(*shape, *channels) < 1 or not channels:
            raise ValueError(
                f"`shape` is {shape} and `channels` {channels}: give positive sizes, at least one convolution"
            )
        *keys, key_dense = jax.random.split(key, len(channels) + 1)
        self.convolutions = tuple(
            Conv(a, b, kernel_size, stride=stride, key=k)
            for (a, b), k in zip(pairwise((shape[2], *channels)), keys, strict=True)
        )
        self.pool = eqx.nn.Identity() if pool is None else pool
        self.shape = shape
        size = eqx.filter_eval_shape(self._convolve, jax.ShapeDtypeStruct(shape, jnp.result_type(float))).size
        if size < 1:
            raise ValueError(
                f"`shape` is {shape}: too small to be made smaller by each of the {len(channels)} `channels`"
            )
        self.dense = Linear(size, features, gain=2.0**0.5, key=key_dense)

    @checked
    def __call__(self, image: Image) -> Float[Array, " features"]:
        """The features of one image: floating-point values as they are, bytes divided by 255."""
        check_shape("image", image, self.shape, "the encoder's `shape`: height, width, channels")
        return jax.nn.relu(self.dense(self._convolve(as_float(image)).ravel()))

    def _convolve(self, h: Float[Array, "height width channels"]) -> Float[Array, "rows columns maps"]:
        for convolution in self.convolutions:
            h = self.pool(jax.nn.relu(convolution(h)))
        return h
