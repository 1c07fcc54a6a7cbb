"""A residual network on flattened points, whose layers the time and the condition scale and shift."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Point, PRNGKey, Real, Time, check_number, checked
from ._activation import silu
from ._features import SinusoidalFeatures
from ._linear import Linear
from ._mlp import _Perceptron


class _Block(eqx.Module):
    """One residual block: `h + gate(c) * out(dropout(act(inner(norm(h) * (1 + scale(c)) + shift(c)))))`."""

    modulation: Linear
    inner: Linear
    out: Linear

    def __init__(self, width: int, *, key: PRNGKey) -> None:
        keys = jax.random.split(key, 3)
        # With small weights and a bias of 0, every block begins close to the identity.
        self.modulation = Linear(width, 3 * width, gain=0.1, key=keys[0])
        self.inner = Linear(width, width, gain=2.0**0.5, key=keys[1])
        self.out = Linear(width, width, key=keys[2])

    def __call__(
        self,
        h: Float[Array, " width"],
        context: Float[Array, " width"],
        activation: Callable[[Array], Array],
        dropout: Callable[[Array], Array],
    ) -> Float[Array, " width"]:
        scale, shift, gate = jnp.split(self.modulation(context), 3)
        normal = _normalised(h) * (1 + scale) + shift
        return h + (0.1 + gate) * self.out(dropout(activation(self.inner(normal))))


class ResidualMLP(_Perceptron):
    """A residual network in which the time and the condition (context) scale and shift normalised features.

    A first network makes the context `c` of the features of the time and of the condition. Each block then computes
    `h + (0.1 + gate(c)) W_2 act(W_1 (norm(h) (1 + scale(c)) + shift(c)))`, where `norm` is the normalisation of one
    vector to mean 0 and variance 1 without parameters, and `scale`, `shift` and `gate` are linear in `c`: this is
    adaptive layer normalisation ([Peebles and Xie 2023](https://arxiv.org/abs/2212.09748), section 3.2). It is the
    default network of [`flowprop.fit_posterior`][].

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    network = fp.nn.ResidualMLP((2,), condition_size=3, width=32, depth=2, key=jax.random.key(0))
    print(network(0.5, jnp.zeros(2), jnp.ones(3)).shape)  # (2,)

    flow = fp.fm_flow(network, shape=(2,))
    print(flow.velocity(0.5, jnp.zeros(2), jnp.ones(3)).shape)  # (2,)
    ```

    **Arguments:**

    - `shape`: the shape of one point, without the batch axis.
    - `condition_size`: the number of numbers in one condition, over all leaves of its PyTree. 0, the default, means no
      condition.
    - `width`: the size of each hidden layer, 128 by default.
    - `depth`: the number of residual blocks, 3 by default.
    - `out_shape`: the shape of the output. By default `shape`; use `(classes,)` for the logits of a categorical
      prediction.
    - `activation`: the function after each hidden layer, `silu` by default. A function of `jax.nn` that cannot be
      pickled is replaced by an equal one that can.
    - `time_features`: the features of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `dropout`: the probability with which training sets a hidden unit of a block to 0. By default 0.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, `condition_size` is negative, or `dropout` is not in [0, 1).
    """

    context: tuple[Linear, Linear]
    blocks: tuple[_Block, ...]
    dropout: Real = eqx.field(static=True)

    @checked
    def __init__(
        self,
        shape: tuple[int, ...],
        condition_size: int = 0,
        width: int = 128,
        depth: int = 3,
        *,
        out_shape: tuple[int, ...] | None = None,
        activation: Callable[[Array], Array] = silu,
        time_features: SinusoidalFeatures | None = None,
        dropout: Real = 0.0,
        key: PRNGKey,
    ) -> None:
        size, context_size, _ = self._configure(
            shape, condition_size, width, depth, out_shape, activation, time_features, key
        )
        check_number("dropout", dropout, at_least=0, below=1, remedy="give a probability below 1")
        keys = jax.random.split(key, depth + 4)
        self.layers = (
            Linear(size, width, key=keys[0]),
            Linear(width, math.prod(self.out_shape), gain=0.1, key=keys[1]),
        )
        self.context = (
            Linear(context_size, width, key=keys[2]),
            Linear(width, width, gain=2.0**0.5, key=keys[3]),
        )
        self.blocks = tuple(_Block(width, key=k) for k in keys[4:])
        self.dropout = dropout

    @checked
    def __call__(
        self, t: Time, z: Point, x: PyTree = None, *, key: PRNGKey | None = None
    ) -> Float[Array, "*out_shape"]:
        """The output for one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point, an array of shape `shape`.
        - `x`: the condition, any PyTree with `condition_size` numbers in all; `None` if that is 0.
        - `key`: the random key of the dropout, in training. Without a key there is no dropout.

        **Returns:** an array of shape `out_shape`. Its dtype is the one to which `z` and the parameters promote.

        **Raises:** `ValueError` if `z` or `x` has another size.
        """
        point, context = self._point_and_context(t, z, x)
        first, second = self.context
        context = self.activation(second(self.activation(first(context))))
        keys = [None] * len(self.blocks) if key is None else list(jax.random.split(key, len(self.blocks)))
        into, out = self.layers
        h = into(point)
        for block, own in zip(self.blocks, keys, strict=True):
            h = block(h, context, self.activation, functools.partial(self._dropped, key=own))
        return out(self.activation(_normalised(h))).reshape(self.out_shape)

    def _dropped(self, units: Float[Array, " width"], key: PRNGKey | None) -> Float[Array, " width"]:
        if key is None or self.dropout == 0:
            return units
        return jnp.where(jax.random.bernoulli(key, 1 - self.dropout, units.shape), units / (1 - self.dropout), 0)


def _normalised(h: Float[Array, " width"]) -> Float[Array, " width"]:
    """One vector with mean 0 and variance 1."""
    wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
    centred = wide - jnp.mean(wide)
    return (centred * jax.lax.rsqrt(jnp.mean(centred**2) + 1e-5)).astype(h.dtype)
