"""The network of a label flow: it joins features of the noisy label with those of the time and of the input."""

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
    """Dense layers with skip connections that encode a noisy label embedding, as in NoProp
    ([arXiv:2503.24322](https://arxiv.org/abs/2503.24322)).

    `h_0 = W_0 z + b_0` and `h_k = h_{k-1} + silu(W_k h_{k-1} + b_k)` for `k = 1 ... depth`; the output is `h_depth`.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    encoder = fp.nn.LabelEncoder((10,), features=16, key=jax.random.key(0))
    print(encoder(jnp.zeros(10)).shape)  # (16,)
    ```

    **Arguments:**

    - `shape`: the shape of one label embedding.
    - `features`: the size of the output vector, 64 by default.
    - `depth`: the number of layers after the first, 2 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive.
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
        """The features of one noisy label. Use `jax.vmap` for a batch.

        **Arguments:**

        - `z`: the noisy label embedding, an array of shape `shape`.

        **Returns:** a vector of `features` numbers.

        **Raises:** `ValueError` if `z` has another shape.
        """
        check_shape("z", z, self.shape, "the encoder's `shape` is that of one point; use `jax.vmap` for a batch")
        h = self.first(z.ravel())
        for layer in self.layers:
            h = h + jax.nn.silu(layer(h))
        return h


class FuseNetwork(eqx.Module):
    """The network of a label flow: an [`flowprop.nn.MLP`][] that reads the encoded label, the time, and the condition.

    The noisy label `z` passes through `label_encoder`; a [`flowprop.nn.MLP`][] joins its output with features of the
    time and the condition (context), which for a [`flowprop.Classifier`][] are the features of the input.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    key_encoder, key_network = jax.random.split(jax.random.key(0))
    label_encoder = fp.nn.LabelEncoder((10,), features=16, key=key_encoder)
    # 32 features of the input, and a logit for each of 10 classes.
    network = fp.nn.FuseNetwork(label_encoder, 32, (10,), width=16, key=key_network)
    print(network(0.5, jnp.zeros(10), jnp.zeros(32)).shape)  # (10,)
    ```

    **Arguments:**

    - `label_encoder`: a callable on one point, such as [`flowprop.nn.LabelEncoder`][], or
      [`flowprop.nn.ConvEncoder`][] if the points are images.
    - `condition_size`: the number of numbers in one condition, over all leaves of its PyTree.
    - `out_shape`: the shape of the output; `(classes,)` for the logits of a categorical prediction.
    - `shape`: the shape of one point. By default `label_encoder.shape`.
    - `width`: the size of each hidden layer of the MLP, 256 by default.
    - `depth`: the number of hidden layers of the MLP, 2 by default.
    - `time_features`: the features of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights of the MLP.

    **Raises:** `TypeError` if neither `shape` nor `label_encoder.shape` is given; `ValueError` if a size is not
    positive, or `condition_size` is negative.
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
                f"`label_encoder` is {label_encoder}, which has no `shape`: give `shape`, the shape of one point"
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
        """The output for one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the noisy label, an array of shape `shape`.
        - `x`: the condition, any PyTree with `condition_size` numbers in all; `None` if that is 0.

        **Returns:** an array of shape `out_shape`.

        **Raises:** `ValueError` if `z` or `x` has another size.
        """
        check_shape("z", z, self.shape, "the network's `shape` is that of one point; use `jax.vmap` for a batch")
        return self.mlp(t, self.label_encoder(z).ravel(), x)
