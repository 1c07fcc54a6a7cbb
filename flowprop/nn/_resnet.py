"""Residual networks for small images, with group instead of batch normalisation."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Image, PRNGKey, Real, check_key, check_positive, check_shape, checked
from ._conv import Conv, as_float
from ._linear import Linear
from ._norm import GroupNorm


class _NormedConv(eqx.Module):
    """A convolution and the normalisation of its output."""

    conv: Conv
    norm: GroupNorm

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        gain: Real = 1.0,
        key: PRNGKey,
    ) -> None:
        self.conv = Conv(in_channels, out_channels, kernel_size, stride=stride, use_bias=False, key=key)
        self.norm = GroupNorm(out_channels, math.gcd(out_channels, 16), gain=gain)

    def __call__(self, image: Float[Array, "height width in_channels"]) -> Float[Array, "rows columns out_channels"]:
        return self.norm(self.conv(image))


class ResidualBlock(eqx.Module):
    """`relu(branch(x) + shortcut(x))` (He et al. 2016, equations 1 and 2).

    The branch is convolutions, each followed by a [`flowprop.nn.GroupNorm`][], with `relu` in between. The shortcut is
    the identity if the shapes allow it, and otherwise a convolution of size 1. The scale of the branch's last
    normalisation begins at 0: at first a block is its shortcut (Goyal et al. 2017, section 5.1).

    **Arguments:**

    - `in_channels`: of the input.
    - `convolutions`: of the branch, each as `(out_channels, kernel_size, stride)`.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for no convolution or a number that is not positive.
    """

    branch: tuple[_NormedConv, ...]
    shortcut: Callable[[Array], Array]

    @checked
    def __init__(self, in_channels: int, convolutions: tuple[tuple[int, int, int], ...], *, key: PRNGKey) -> None:
        check_key("key", key)
        if not convolutions:
            raise ValueError("`convolutions` is (): give at least one")
        *keys, key_shortcut = jax.random.split(key, len(convolutions) + 1)
        sizes = (in_channels, *(out_channels for out_channels, _, _ in convolutions))
        gains = (*[1.0] * (len(convolutions) - 1), 0.0)
        self.branch = tuple(
            _NormedConv(size, *convolution, gain=gain, key=k)
            for size, convolution, gain, k in zip(sizes[:-1], convolutions, gains, keys, strict=True)
        )
        stride = math.prod(stride for _, _, stride in convolutions)
        self.shortcut = (
            eqx.nn.Identity()
            if (sizes[-1], stride) == (in_channels, 1)
            else _NormedConv(in_channels, sizes[-1], 1, stride, key=key_shortcut)
        )

    @property
    def out_channels(self) -> int:
        """How many channels come out."""
        return self.branch[-1].norm.scale.shape[0]

    @checked
    def __call__(self, image: Float[Array, "height width in_channels"]) -> Float[Array, "rows columns out_channels"]:
        """The image of one image."""
        h = self.branch[0](image)
        for layer in self.branch[1:]:
            h = layer(jax.nn.relu(h))
        return jax.nn.relu(h + self.shortcut(image))


@checked
def basic_block(in_channels: int, width: int, stride: int = 1, *, key: PRNGKey) -> ResidualBlock:
    """Two convolutions of size 3 (He et al. 2016, figure 5, left); `width` channels come out.

    **Arguments:**

    - `in_channels`: of the input.
    - `width`: channels of both convolutions.
    - `stride`: of the first.
    - `key`: for the initial weights.

    **Returns:** the block.

    **Raises:** `ValueError` for a number that is not positive.
    """
    return ResidualBlock(in_channels, ((width, 3, stride), (width, 3, 1)), key=key)


@checked
def bottleneck_block(in_channels: int, width: int, stride: int = 1, *, key: PRNGKey) -> ResidualBlock:
    """Convolutions of size 1, 3 and 1 (He et al. 2016, figure 5, right); `4 width` channels come out.

    **Arguments:**

    - `in_channels`: of the input.
    - `width`: channels of the first two convolutions.
    - `stride`: of the second, which loses less than that of the first.
    - `key`: for the initial weights.

    **Returns:** the block.

    **Raises:** `ValueError` for a number that is not positive.
    """
    return ResidualBlock(in_channels, ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1)), key=key)


class ResNet(eqx.Module):
    """A residual network for images of about 32 pixels (He et al. 2016).

    A convolution of size 3 without pooling, stages of residual blocks, the mean over all places, and a dense layer.
    Each stage after the first halves height and width and doubles the channels.

    **Arguments:**

    - `shape`: `(height, width, channels)` of one image.
    - `features`: how many numbers come out; `None` leaves out the dense layer.
    - `depths`: how many blocks each stage has.
    - `block`: makes one of `(in_channels, width, stride, key=key)`.
    - `width`: of the first stage.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a number that is not positive and, when called, for an image of another shape.
    """

    stem: _NormedConv
    blocks: tuple[ResidualBlock, ...]
    dense: Callable[[Array], Array]
    shape: tuple[int, int, int] = eqx.field(static=True)

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int | None = 128,
        *,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        block: Callable[..., ResidualBlock] = basic_block,
        width: int = 64,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        check_positive(width=width, features=1 if features is None else features)
        if min(*shape, *depths) < 1 or not depths:
            raise ValueError(f"`shape` is {shape} and `depths` {depths}: give positive numbers, at least one stage")
        key_stem, key_dense, key = jax.random.split(key, 3)
        self.stem = _NormedConv(shape[2], width, 3, key=key_stem)
        plan = [(stage, index) for stage, depth in enumerate(depths) for index in range(depth)]
        blocks: list[ResidualBlock] = []
        channels = width
        for (stage, index), k in zip(plan, jax.random.split(key, len(plan)), strict=True):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(block(channels, width * 2**stage, stride, key=k))
            channels = blocks[-1].out_channels
        self.blocks = tuple(blocks)
        self.dense = eqx.nn.Identity() if features is None else Linear(channels, features, key=key_dense)
        self.shape = shape

    @checked
    def __call__(self, image: Image) -> Float[Array, " features"]:
        """The features of one image: floating-point values as they are, bytes divided by 255."""
        check_shape("image", image, self.shape, "the encoder's `shape`: height, width, channels")
        h = jax.nn.relu(self.stem(as_float(image)))
        for block in self.blocks:
            h = block(h)
        return self.dense(jnp.mean(h, axis=(0, 1)))


@checked
def resnet18(shape: tuple[int, int, int], features: int | None = 128, *, width: int = 64, key: PRNGKey) -> ResNet:
    """ResNet-18. Arguments: the same as for [`flowprop.nn.ResNet`][]."""
    return ResNet(shape, features, depths=(2, 2, 2, 2), block=basic_block, width=width, key=key)


@checked
def resnet50(shape: tuple[int, int, int], features: int | None = 128, *, width: int = 64, key: PRNGKey) -> ResNet:
    """ResNet-50. Arguments: the same as for [`flowprop.nn.ResNet`][]."""
    return ResNet(shape, features, depths=(3, 4, 6, 3), block=bottleneck_block, width=width, key=key)


@checked
def resnet152(shape: tuple[int, int, int], features: int | None = 128, *, width: int = 64, key: PRNGKey) -> ResNet:
    """ResNet-152. Arguments: the same as for [`flowprop.nn.ResNet`][]."""
    return ResNet(shape, features, depths=(3, 8, 36, 3), block=bottleneck_block, width=width, key=key)
