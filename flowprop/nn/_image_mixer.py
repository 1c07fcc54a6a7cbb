"""A network from image to image made of matrix products only."""

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
    """`h` brought to mean square 1 over the whole image, each channel then scaled and shifted."""
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h)) + 1e-5) * (1 + scale) + shift


def _join_patches(patches: Float[Array, "patches numbers"], shape: tuple[int, ...], size: int) -> Array:
    """The image whose squares of `size` pixels, row by row, these are."""
    height, width, channels = shape
    squares = patches.reshape(height // size, width // size, size, size, channels)
    return squares.swapaxes(1, 2).reshape(shape)


class _Block(eqx.Module):
    """`h + W a + b` across the patches, then `h + W_2 silu(W_1 a + b_1) + b_2` across their channels, `a` modulated."""

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
    """Layers across the patches of an image, and across their channels, for a flow of images.

    A linear layer mixes the patches and a perceptron their channels, in turns (cf. ResMLP, Touvron et al. 2021, and
    [`flowprop.nn.MixerEncoder`][]). Before each, the image's mean square is brought to 1, and every channel is scaled
    and shifted by linear functions of the context: a layer on the time's features and the condition (cf. FiLM, Perez
    et al. 2018, and DiT, Peebles and Xie 2023). To the patches, put together, a multiple of `z` is added that depends
    on the context. There are matrix products only, which stay fast where gradients of convolutions do not: in loops,
    on a CPU.

    **Arguments:**

    - `shape`: `(height, width, channels)` of one image.
    - `condition_size`: how many numbers a condition holds; 0 for none.
    - `patch_size`: height and width of a patch, a divisor of the image's.
    - `width`: channels of each patch.
    - `depth`: how many blocks.
    - `time_features`: of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a number that is not positive, patches that do not fill the image and, when called,
    for an image or condition of another size.
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
        # All blocks together add about as much variance as there is.
        gain = (2 * depth) ** -0.5
        key_embed, key_context, key_modulation, key_out, key = jax.random.split(key, 5)
        self.embed = Linear(numbers, width, key=key_embed)
        self.context = Linear(self.time_features.size + condition_size, 2 * width, key=key_context)
        self.blocks = tuple(_Block(num_patches, width, gain, key=k) for k in jax.random.split(key, depth))
        self.modulation = Linear(2 * width, 2 * width + 1, gain=0.0, key=key_modulation)
        # The output begins small, a flow that hardly moves.
        self.out = Linear(width, numbers, gain=0.1, key=key_out)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """The shape of the output."""
        return self.shape

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "height width channels"]:
        """The output at time `t` and image `z` under condition `x`, each of one example."""
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
