"""Residual networks for small images, with group normalisation instead of batch normalisation."""

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
    """The residual block `relu(branch(x) + shortcut(x))` (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), equations 1 and 2).

    The branch is a chain of convolutions, each followed by a [`flowprop.nn.GroupNorm`][], with `relu` between them. The
    shortcut is the identity if input and output have the same shape, and otherwise a normalised convolution with a
    kernel of size 1. The scale of the branch's last normalisation begins at 0, so that an untrained block computes
    `relu(shortcut(x))` (Goyal et al. 2017, [arXiv:1706.02677](https://arxiv.org/abs/1706.02677), section 5.1).

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    # Two convolutions, with 4 output channels each; the first halves the image.
    block = fp.nn.ResidualBlock(2, ((4, 3, 2), (4, 3, 1)), key=jax.random.key(0))
    print(block(jnp.zeros((8, 8, 2))).shape)  # (4, 4, 4)
    ```

    **Arguments:**

    - `in_channels`: the number of channels of the input.
    - `convolutions`: the convolutions of the branch in order, each as `(out_channels, kernel_size, stride)`.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if `convolutions` is empty, or a number is not positive.
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
        """The number of channels of the output."""
        return self.branch[-1].norm.scale.shape[0]

    @checked
    def __call__(self, image: Float[Array, "height width in_channels"]) -> Float[Array, "rows columns out_channels"]:
        """The output for one image. Use `jax.vmap` for a batch.

        **Arguments:**

        - `image`: an image `(height, width, in_channels)` of floating-point numbers.

        **Returns:** an image of `out_channels` channels; its height and width are divided by all strides and rounded
        up.
        """
        h = self.branch[0](image)
        for layer in self.branch[1:]:
            h = layer(jax.nn.relu(h))
        return jax.nn.relu(h + self.shortcut(image))


@checked
def basic_block(in_channels: int, width: int, stride: int = 1, *, key: PRNGKey) -> ResidualBlock:
    """A residual block of two convolutions with kernels of size 3 (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), figure 5, left).

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    block = fp.nn.basic_block(2, 4, stride=2, key=jax.random.key(0))
    print(block(jnp.zeros((8, 8, 2))).shape)  # (4, 4, 4)
    ```

    **Arguments:**

    - `in_channels`: the number of channels of the input.
    - `width`: the number of output channels of both convolutions, and of the block.
    - `stride`: the stride of the first convolution, 1 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Returns:** a [`flowprop.nn.ResidualBlock`][] with `width` output channels.

    **Raises:** `ValueError` if a number is not positive.
    """
    return ResidualBlock(in_channels, ((width, 3, stride), (width, 3, 1)), key=key)


@checked
def bottleneck_block(in_channels: int, width: int, stride: int = 1, *, key: PRNGKey) -> ResidualBlock:
    """A residual block of three convolutions with kernels of size 1, 3 and 1 (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), figure 5, right).

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    block = fp.nn.bottleneck_block(2, 4, stride=2, key=jax.random.key(0))
    print(block(jnp.zeros((8, 8, 2))).shape)  # (4, 4, 16)
    ```

    **Arguments:**

    - `in_channels`: the number of channels of the input.
    - `width`: the number of output channels of the first two convolutions.
    - `stride`: the stride of the second convolution, 1 by default. A stride in the first convolution would skip pixels,
      because its kernel has size 1.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Returns:** a [`flowprop.nn.ResidualBlock`][] with `4 width` output channels.

    **Raises:** `ValueError` if a number is not positive.
    """
    return ResidualBlock(in_channels, ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1)), key=key)


class ResNet(eqx.Module):
    """A residual network (ResNet) that encodes images of about 32 x 32 pixels (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)).

    It has a convolution with a kernel of size 3 and no pooling, stages of residual blocks, the mean over all pixels,
    and a dense layer. Each stage after the first halves height and width and doubles the number of channels. The
    normalisation is [`flowprop.nn.GroupNorm`][], which needs no batch statistics.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    encoder = fp.nn.ResNet((8, 8, 3), 16, depths=(1, 1), width=4, key=jax.random.key(0))
    image = jnp.zeros((8, 8, 3), jnp.uint8)
    print(encoder(image).shape)  # (16,)
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `features`: the size of the output vector, 128 by default; `None` leaves out the dense layer.
    - `depths`: the number of blocks of each stage, `(2, 2, 2, 2)` by default.
    - `block`: a function that makes one block, called as `block(in_channels, width, stride, key=key)`. By default
      [`flowprop.nn.basic_block`][].
    - `width`: the number of channels of the first stage, 64 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a number is not positive, or `depths` is empty.
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
            raise ValueError(
                f"`shape` is {shape} and `depths` is {depths}: give positive numbers, and at least one stage"
            )
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
        """The features of one image. Use `jax.vmap` for a batch.

        **Arguments:**

        - `image`: an image of the encoder's `shape`. Floating-point values are not changed; bytes (uint8) are
          divided by 255.

        **Returns:** a vector of `features` numbers, or of the last stage's channels if `features` is `None`.

        **Raises:** `ValueError` if the image has another shape.
        """
        check_shape("image", image, self.shape, "the encoder's `shape`: height, width, channels")
        h = jax.nn.relu(self.stem(as_float(image)))
        for block in self.blocks:
            h = block(h)
        return self.dense(jnp.mean(h, axis=(0, 1)))


@checked
def resnet18(shape: tuple[int, int, int], features: int | None = 128, *, width: int = 64, key: PRNGKey) -> ResNet:
    """The [`flowprop.nn.ResNet`][] with the depths (2, 2, 2, 2) and basic blocks, ResNet-18 (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), table 1).

    ```python
    import equinox as eqx
    import jax
    import flowprop as fp

    # The network's arrays without their values: nothing is computed.
    encoder = eqx.filter_eval_shape(fp.nn.resnet18, (32, 32, 3), 10, key=jax.random.key(0))
    arrays = [leaf for leaf in jax.tree.leaves(encoder) if hasattr(leaf, "size")]
    print(sum(array.size for array in arrays))  # 11173962
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `features`: the size of the output vector, 128 by default; `None` leaves out the last dense layer.
    - `width`: the number of channels of the first stage, 64 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Returns:** a [`flowprop.nn.ResNet`][].

    **Raises:** `ValueError` if a number is not positive.
    """
    return ResNet(shape, features, depths=(2, 2, 2, 2), block=basic_block, width=width, key=key)


@checked
def resnet50(shape: tuple[int, int, int], features: int | None = 128, *, width: int = 64, key: PRNGKey) -> ResNet:
    """The [`flowprop.nn.ResNet`][] with the depths (3, 4, 6, 3) and bottleneck blocks, ResNet-50 (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), table 1).

    ```python
    import equinox as eqx
    import jax
    import flowprop as fp

    # The network's arrays without their values: nothing is computed.
    encoder = eqx.filter_eval_shape(fp.nn.resnet50, (32, 32, 3), 10, key=jax.random.key(0))
    arrays = [leaf for leaf in jax.tree.leaves(encoder) if hasattr(leaf, "size")]
    print(sum(array.size for array in arrays))  # 23520842
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `features`: the size of the output vector, 128 by default; `None` leaves out the last dense layer.
    - `width`: the number of channels of the first stage, 64 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Returns:** a [`flowprop.nn.ResNet`][].

    **Raises:** `ValueError` if a number is not positive.
    """
    return ResNet(shape, features, depths=(3, 4, 6, 3), block=bottleneck_block, width=width, key=key)


@checked
def resnet152(shape: tuple[int, int, int], features: int | None = 128, *, width: int = 64, key: PRNGKey) -> ResNet:
    """The [`flowprop.nn.ResNet`][] with the depths (3, 8, 36, 3) and bottleneck blocks, ResNet-152 (He et al. 2016,
    [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), table 1).

    ```python
    import equinox as eqx
    import jax
    import flowprop as fp

    # The network's arrays without their values: nothing is computed.
    encoder = eqx.filter_eval_shape(fp.nn.resnet152, (32, 32, 3), 10, key=jax.random.key(0))
    arrays = [leaf for leaf in jax.tree.leaves(encoder) if hasattr(leaf, "size")]
    print(sum(array.size for array in arrays))  # 58156618
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `features`: the size of the output vector, 128 by default; `None` leaves out the last dense layer.
    - `width`: the number of channels of the first stage, 64 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Returns:** a [`flowprop.nn.ResNet`][].

    **Raises:** `ValueError` if a number is not positive.
    """
    return ResNet(shape, features, depths=(3, 8, 36, 3), block=bottleneck_block, width=width, key=key)
