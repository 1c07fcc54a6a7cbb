"""The network of a label's flow: features of the noisy label, joined with those of time and input."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Point, PRNGKey, Time, check_key, check_positive, check_shape, checked
from ._features import SinusoidalFeatures
from ._linear import Linear
from ._mlp import MLP


class LabelEncoder(eqx.Module):
    """Dense layers with skip connections on a noisy label (NoProp, arXiv:2503.24322).

    `h_0 = W_0 z + b_0` and `h_k = h_{k-1} + silu(W_k h_{k-1} + b_k)` up to `k = depth`.

    **Arguments:**

    - `shape`: of one label.
    - `features`: how many numbers come out.
    - `depth`: how many layers follow the first.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a number that is not positive and, when called, for a point of another shape.
    """

    first: Linear
    layers: tuple[Linear, ...]
    shape: tuple[int, ...] = eqx.field(static=True)

    @checked
    def __init__(self, shape: tuple[int, ...], features: int = 64, *, depth: int = 2, key: PRNGKey) -> None:
        check_key("key", key)
        check_positive(features=features, depth=depth)
        if any(size < 1 for size in shape):
            raise ValueError(f"`shape` is {shape}: give positive sizes, without the batch axis")
        key_first, *keys = jax.random.split(key, depth + 1)
        self.first = Linear(math.prod(shape), features, key=key_first)
        self.layers = tuple(Linear(features, features, key=k) for k in keys)
        self.shape = shape

    @checked
    def __call__(self, z: Point) -> Float[Array, " features"]:
        """The features of one point."""
        check_shape("z", z, self.shape, "the encoder's `shape` is that of one point; use `jax.vmap` for a batch")
        h = self.first(z.ravel())
        for layer in self.layers:
            h = h + jax.nn.silu(layer(h))
        return h


class FuseNetwork(eqx.Module):
    """An [`flowprop.nn.MLP`][] on features of the noisy label, features of the time, and the features of the input.

    **Arguments:**

    - `label_encoder`: a callable on one point, such as [`flowprop.nn.LabelEncoder`][], or
      [`flowprop.nn.ConvEncoder`][] for points that are images.
    - `condition_size`: how many numbers a condition holds.
    - `out_shape`: of the output; `(classes,)` for a categorical prediction.
    - `shape`: of one point. By default that of `label_encoder`.
    - `width`, `depth`, `time_features`: the same as for [`flowprop.nn.MLP`][].
    - `key`: for the initial weights.

    **Raises:** `TypeError` without a `shape`; `ValueError` for a size that is not positive and, when called,
    for a point or condition of another size.
    """

    label_encoder: Callable[[Array], Array]
    mlp: MLP
    shape: tuple[int, ...] = eqx.field(static=True)

    @checked
    def __init__(
        self,
        label_encoder: Callable[[Array], Array],
        condition_size: int,
        out_shape: tuple[int, ...],
        *,
        shape: tuple[int, ...] | None = None,
        width: int = 256,
        depth: int = 2,
        time_features: SinusoidalFeatures | None = None,
        key: PRNGKey,
    ) -> None:
        shape = getattr(label_encoder, "shape", None) if shape is None else shape
        if shape is None:
            raise TypeError(
                f"`label_encoder` is {label_encoder}, which has no `shape`: give `shape`, that of one point"
            )
        features = eqx.filter_eval_shape(label_encoder, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
        self.label_encoder = label_encoder
        self.mlp = MLP(
            (features.size,), condition_size, width, depth, out_shape=out_shape, time_features=time_features, key=key
        )
        self.shape = shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return self.mlp.out_shape

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "*out_shape"]:
        """The output at time `t` and point `z` under condition `x`, each of one example."""
        check_shape("z", z, self.shape, "the network's `shape` is that of one point; use `jax.vmap` for a batch")
        return self.mlp(t, self.label_encoder(z).ravel(), x)
