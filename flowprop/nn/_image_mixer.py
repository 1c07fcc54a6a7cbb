"""A network from image to image that uses matrix products only."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Point, PRNGKey, Real, Time, check_key, check_positive, check_shape, checked
from ._features import SinusoidalFeatures
from ._linear import Linear
from ._mixer import cut_patches
from ._mlp import _flatten_condition


Patches = Float[Array, "patches width"]
Context = Float[Array, " context"]


def _modulated(h: Patches, scale: Float[Array, "1 width"], shift: Float[Array, "1 width"]) -> Patches:
    """`h` divided by its root mean square over the whole image, then scaled and shifted channel by channel."""
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h)) + 1e-5) * (1 + scale) + shift


def _join_patches(patches: Float[Array, "patches numbers"], shape: tuple[int, ...], size: int) -> Array:
    """The image that `cut_patches` would cut into these patches: squares of `size` x `size` pixels, row by row."""
    height, width, channels = shape
    squares = patches.reshape(height // size, width // size, size, size, channels)
    return squares.swapaxes(1, 2).reshape(shape)


class _Block(eqx.Module):
    """`h + W a + b` across the patches, then `h + W_2 silu(W_1 a + b_1) + b_2` across the channels; `a` is `h`
    modulated."""

    patches: Linear
    up: Linear
    down: Linear
    modulation: Linear

    def __init__(self, num_patches: int, width: int, gain: Real, *, key: PRNGKey) -> None:
        key_patches, key_up, key_down, key_modulation = jax.random.split(key, 4)
        self.patches = Linear(num_patches, num_patches, gain=gain, key=key_patches)
        self.up = Linear(width, 2 * width, gain=2.0**0.5, key=key_up)
        self.down = Linear(2 * width, width, gain=gain, key=key_down)
        self.modulation = Linear(2 * width, 4 * width, gain=0.0, key=key_modulation)

    def __call__(self, h: Patches, context: Context) -> Patches:
        scale, shift, scale_channels, shift_channels = self.modulation(context).reshape(4, 1, -1)
        h = h + jax.vmap(self.patches, in_axes=1, out_axes=1)(_modulated(h, scale, shift))
        hidden = jax.nn.silu(jax.vmap(self.up)(_modulated(h, scale_channels, shift_channels)))
        return h + jax.vmap(self.down)(hidden)


class ImageMixer(eqx.Module):
    """A network for flows of images: layers across the patches of an image alternate with layers across the channels.

    Each block has a linear layer across the patches and a perceptron across the channels, both with skip connections
    (as in ResMLP, Touvron et al. 2021, [arXiv:2105.03404](https://arxiv.org/abs/2105.03404); see also
    [`flowprop.nn.MixerEncoder`][]). Before each of them, the image is divided by its root mean square, and each channel
    is scaled and shifted. Scale and shift are linear in the context, the output of a layer that reads the features of
    the time and the condition (as in FiLM, Perez et al. 2018,
    [arXiv:1709.07871](https://arxiv.org/abs/1709.07871), and DiT, Peebles and Xie 2023,
    [arXiv:2212.09748](https://arxiv.org/abs/2212.09748), section 3.2). The output is the image of all patches plus a
    multiple of `z`; the multiple is linear in the context too.

    The network uses matrix products only. They stay fast in loops on a CPU, where gradients of convolutions are slow.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    network = fp.nn.ImageMixer(
        (8, 8, 1), condition_size=3, width=8, depth=1, key=jax.random.key(0)
    )
    print(network(0.5, jnp.zeros((8, 8, 1)), jnp.ones(3)).shape)  # (8, 8, 1)

    flow = fp.fm_flow(network, shape=(8, 8, 1))
    ```

    **Arguments:**

    - `shape`: the shape `(height, width, channels)` of one image.
    - `condition_size`: the number of numbers in one condition, over all leaves of its PyTree. 0, the default, means no
      condition.
    - `patch_size`: the height and width of a patch in pixels, 4 by default. It must divide the image's height and
      width.
    - `width`: the number of channels of each patch, 64 by default.
    - `depth`: the number of blocks, 8 by default.
    - `time_features`: the features of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, `condition_size` is negative, or `patch_size` does not divide
    the image's height and width.
    """

    embed: Linear
    context: Linear
    blocks: tuple[_Block, ...]
    modulation: Linear
    out: Linear
    time_features: SinusoidalFeatures
    shape: tuple[int, int, int] = eqx.field(static=True)
    condition_size: int = eqx.field(static=True)
    patch_size: int = eqx.field(static=True)

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        condition_size: int = 0,
        *,
        patch_size: int = 4,
        width: int = 64,
        depth: int = 8,
        time_features: SinusoidalFeatures | None = None,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        check_positive(patch_size=patch_size, width=width, depth=depth)
        if condition_size < 0:
            raise ValueError(f"`condition_size` is {condition_size}: give 0 for no condition")
        if min(shape) < 1:
            raise ValueError(f"`shape` is {shape}: give positive sizes")
        if shape[0] % patch_size or shape[1] % patch_size:
            raise ValueError(f"`patch_size` is {patch_size}: give a divisor of height and width of {shape}")
        self.time_features = SinusoidalFeatures() if time_features is None else time_features
        self.shape = shape
        self.condition_size = condition_size
        self.patch_size = patch_size
        numbers = patch_size**2 * shape[2]
        num_patches = math.prod(shape) // numbers
        # All blocks together add about as much variance as their input has.
        gain = (2 * depth) ** -0.5
        key_embed, key_context, key_modulation, key_out, key = jax.random.split(key, 5)
        self.embed = Linear(numbers, width, key=key_embed)
        self.context = Linear(self.time_features.size + condition_size, 2 * width, key=key_context)
        self.blocks = tuple(_Block(num_patches, width, gain, key=k) for k in jax.random.split(key, depth))
        self.modulation = Linear(2 * width, 2 * width + 1, gain=0.0, key=key_modulation)
        # The output begins small: the flow of an untrained network hardly moves an image.
        self.out = Linear(width, numbers, gain=0.1, key=key_out)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """The shape of the output."""
        return self.shape

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "height width channels"]:
        """The output for one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the image, an array of shape `shape`.
        - `x`: the condition, any PyTree with `condition_size` numbers in all; `None` if that is 0.

        **Returns:** an image of shape `shape`.

        **Raises:** `ValueError` if `z` or `x` has another size.
        """
        check_shape("z", z, self.shape, "the network's `shape` is that of one image; use `jax.vmap` for a batch")
        condition = _flatten_condition(x, self.condition_size).astype(z.dtype)
        features = self.time_features(jnp.asarray(t, z.dtype))
        context = jax.nn.silu(self.context(jnp.concatenate([features, condition])))
        h = jax.vmap(self.embed)(cut_patches(z, self.patch_size, self.patch_size))
        for block in self.blocks:
            h = block(h, context)
        *modulation, multiple = jnp.split(self.modulation(context), (h.shape[1], 2 * h.shape[1]))
        h = _modulated(h, *(m[None] for m in modulation))
        return _join_patches(jax.vmap(self.out)(h), self.shape, self.patch_size) + multiple[0] * z
