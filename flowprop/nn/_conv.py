"""Convolutions with the channels last: with this layout XLA stays fast inside loops on a CPU."""

from collections.abc import Callable
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, check_key, check_positive, check_shape, checked
from ._linear import Linear


class Conv(eqx.Module):
    """A two-dimensional convolution of an image `(height, width, channels)`, padded with zeros to keep its size.

    The initial weights are normal with mean 0 and variance `2 / (kernel_size^2 in_channels)` (He et al. 2015,
    [arXiv:1502.01852](https://arxiv.org/abs/1502.01852), equation 10); the initial bias is 0.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    layer = fp.nn.Conv(1, 8, kernel_size=3, stride=2, key=jax.random.key(0))
    print(layer(jnp.zeros((28, 28, 1))).shape)  # (14, 14, 8)
    ```

    **Arguments:**

    - `in_channels`: the number of channels of the input.
    - `out_channels`: the number of channels of the output.
    - `kernel_size`: the height and width of the kernel, 3 by default.
    - `stride`: the step in both directions, 1 by default. Height and width are divided by it and rounded up.
    - `use_bias`: whether to add a trained number to each channel of the output, `True` by default. It is not needed
      before a normalisation, which adds one.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a number is not positive.
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
        """The output for one image. Use `jax.vmap` for a batch.

        **Arguments:**

        - `image`: an image `(height, width, in_channels)` of floating-point numbers.

        **Returns:** an image `(ceil(height / stride), ceil(width / stride), out_channels)`.

        **Raises:** `ValueError` if the image has another number of channels.
        """
        check_shape("image", image, (None, None, self.kernel.shape[2]), "the layer's `in_channels` come last")
        strides = (self.stride, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        # Unlike a matrix product, a convolution does not promote the dtypes of its arguments.
        dtype = jnp.promote_types(image.dtype, self.kernel.dtype)
        images, kernel = image[None].astype(dtype), self.kernel.astype(dtype)
        (out,) = jax.lax.conv_general_dilated(images, kernel, strides, "SAME", dimension_numbers=layout)
        return out if self.bias is None else out + self.bias[None, None]


def as_float(image: Image) -> Float[Array, "height width channels"]:
    """The image with floating-point values: bytes are divided by 255."""
    return image.astype(float) / 255 if image.dtype == jnp.uint8 else image


def max_pool(image: Float[Array, "height width channels"]) -> Float[Array, "rows columns channels"]:
    """The maximum of each 2 x 2 block; an odd last row or column is dropped.

    This uses a reshape, because the gradient of XLA's windowed maximum is slow on a CPU.
    """
    height, width, channels = image.shape
    even = image[: height // 2 * 2, : width // 2 * 2]
    return even.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))


class ConvEncoder(eqx.Module):
    """A small convolutional encoder of images: convolutions with `relu` and pooling, and one dense layer with `relu`.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    encoder = fp.nn.ConvEncoder((28, 28, 1), 16, channels=(4, 8), key=jax.random.key(0))
    images = jnp.zeros((5, 28, 28, 1), jnp.uint8)
    print(jax.vmap(encoder)(images).shape)  # (5, 16)
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `features`: the size of the output vector, 128 by default.
    - `channels`: the number of output channels of each convolution, in order, `(32, 64)` by default.
    - `kernel_size`: the height and width of the kernels, 3 by default.
    - `stride`: the step of the convolutions, 1 by default. Strides of 2 without pooling are several times faster, and
      a little less accurate.
    - `pool`: a function of one image, applied after each convolution and its `relu`. By default it takes the maximum of
      each 2 x 2 block; `None` means no pooling.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, or the image is so small that nothing is left of it after the
    last convolution.
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
                f"`shape` is {shape} and `channels` is {channels}: give positive sizes, and at least one convolution"
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
                f"`shape` is {shape}, too small for {len(channels)} convolutions: give fewer `channels`, or `pool=None`"
            )
        self.dense = Linear(size, features, gain=2.0**0.5, key=key_dense)

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
        return jax.nn.relu(self.dense(self._convolve(as_float(image)).ravel()))

    def _convolve(self, h: Float[Array, "height width channels"]) -> Float[Array, "rows columns maps"]:
        for convolution in self.convolutions:
            h = self.pool(jax.nn.relu(convolution(h)))
        return h
