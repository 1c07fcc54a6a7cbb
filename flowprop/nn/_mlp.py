"""Fully connected networks on flattened points."""

import math
from collections.abc import Callable
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Point, PRNGKey, Time, check_key, check_positive, check_shape, checked
from ._activation import picklable, silu, tanh
from ._features import SinusoidalFeatures
from ._linear import Linear


def _flatten_condition(x: PyTree, condition_size: int) -> Float[Array, " condition_size"]:
    """All leaves of one example's condition as a vector, with its size checked."""
    vector = jnp.concatenate([jnp.zeros(0), *(jnp.ravel(leaf) for leaf in jax.tree.leaves(x))])
    check_shape("x", vector, (condition_size,), "the network's `condition_size` counts all numbers of one condition")
    return vector


class _Perceptron(eqx.Module):
    """The settings that both networks share, and how they turn `(t, z, x)` into vectors."""

    layers: tuple[Linear, ...]
    time_features: SinusoidalFeatures
    activation: Callable[[Array], Array]
    shape: tuple[int, ...] = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)
    condition_size: int = eqx.field(static=True)

    def _configure(
        self,
        shape: tuple[int, ...],
        condition_size: int,
        width: int,
        depth: int,
        out_shape: tuple[int, ...] | None,
        activation: Callable[[Array], Array],
        time_features: SinusoidalFeatures | None,
        key: PRNGKey,
    ) -> tuple[int, int, tuple[int, ...]]:
        """Check and store the settings. Returns the sizes of the point, of the context, and of each layer's output."""
        check_key("key", key)
        check_positive(width=width, depth=depth)
        if condition_size < 0:
            raise ValueError(f"`condition_size` is {condition_size}: give 0 for no condition")
        for name, sizes in (("shape", shape), ("out_shape", out_shape or ())):
            if any(size < 1 for size in sizes):
                raise ValueError(f"`{name}` is {sizes}: give positive sizes, without the batch axis")
        self.time_features = SinusoidalFeatures() if time_features is None else time_features
        self.activation = picklable(activation)
        self.shape = shape
        self.out_shape = shape if out_shape is None else out_shape
        self.condition_size = condition_size
        out_sizes = (*[width] * depth, math.prod(self.out_shape))
        return math.prod(shape), self.time_features.size + condition_size, out_sizes

    def _point_and_context(
        self, t: Time, z: Point, x: PyTree
    ) -> tuple[Float[Array, " size"], Float[Array, " context"]]:
        """The flattened point, and the features of the time joined with the condition."""
        check_shape("z", z, self.shape, "the network's `shape` is that of one point; use `jax.vmap` for a batch")
        features = self.time_features(jnp.asarray(t, z.dtype))
        return z.ravel(), jnp.concatenate([features, _flatten_condition(x, self.condition_size).astype(z.dtype)])


class MLP(_Perceptron):
    """A multilayer perceptron that reads the flattened point, features of the time, and the condition (context).

    The first layer reads `(z, features(t), x)`. The activation follows every layer but the last. The initial weights
    are normal with standard deviation `gain / sqrt(in_size)`. The gain is 1 in the first layer and `sqrt(2)` in the
    other hidden layers, which keeps the variance. It is 0.1 in the last layer, so that an untrained network returns
    values near 0.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    # Points of 2 numbers, and a condition of 3 numbers for each.
    network = fp.nn.MLP((2,), condition_size=3, width=32, depth=2, key=jax.random.key(0))
    print(network(0.5, jnp.zeros(2), jnp.ones(3)).shape)  # (2,)

    # `jax.vmap` applies the network to a batch: 5 times, 5 points, 5 conditions.
    t, z, x = jnp.linspace(0, 1, 5), jnp.zeros((5, 2)), jnp.ones((5, 3))
    print(jax.vmap(network)(t, z, x).shape)  # (5, 2)

    # A flow calls it in the same way.
    flow = fp.fm_flow(network, shape=(2,))
    print(flow.velocity(0.5, jnp.zeros(2), jnp.ones(3)).shape)  # (2,)
    ```

    **Arguments:**

    - `shape`: the shape of one point, without the batch axis.
    - `condition_size`: the number of numbers in one condition, over all leaves of its PyTree. 0, the default, means no
      condition.
    - `width`: the size of each hidden layer, 256 by default.
    - `depth`: the number of hidden layers, 3 by default.
    - `out_shape`: the shape of the output. By default `shape`; use `(classes,)` for the logits of a categorical
      prediction.
    - `activation`: the function after each hidden layer, `silu` by default. A function of `jax.nn` that cannot be
      pickled is replaced by an equal one that can.
    - `time_features`: the features of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, or `condition_size` is negative.
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, ...],
        condition_size: int = 0,
        width: int = 256,
        depth: int = 3,
        *,
        out_shape: tuple[int, ...] | None = None,
        activation: Callable[[Array], Array] = silu,
        time_features: SinusoidalFeatures | None = None,
        key: PRNGKey,
    ) -> None:
        size, context_size, out_sizes = self._configure(
            shape, condition_size, width, depth, out_shape, activation, time_features, key
        )
        # These gains keep the variance from layer to layer. The output begins small: the flow of an untrained network
        # hardly moves a point.
        gains = (1.0, *[2.0**0.5] * (depth - 1), 0.1)
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(
            Linear(in_size, out_size, gain=gain, key=k)
            for (in_size, out_size), gain, k in zip(
                pairwise((size + context_size, *out_sizes)), gains, keys, strict=True
            )
        )

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "*out_shape"]:
        """The output for one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point, an array of shape `shape`.
        - `x`: the condition, any PyTree with `condition_size` numbers in all; `None` if that is 0.

        **Returns:** an array of shape `out_shape`. Its dtype is the one to which `z` and the parameters promote.

        **Raises:** `ValueError` if `z` or `x` has another size.
        """
        h = jnp.concatenate(self._point_and_context(t, z, x))
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h).reshape(self.out_shape)


class ConcatSquashMLP(_Perceptron):
    """A multilayer perceptron in which the time and the condition (context) scale and shift every layer's output.

    Each layer computes `(W h + b) sigmoid(G c + g) + B c + d`, where `c` holds the features of the time and the
    condition. The activation stands between layers. This is the layer `ConcatSquashLinear` of
    [FFJORD's code](https://github.com/rtqichen/ffjord) (Grathwohl et al. 2019,
    [arXiv:1810.01367](https://arxiv.org/abs/1810.01367)); there `c` is the time alone, and `d` is 0.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    network = fp.nn.ConcatSquashMLP((2,), width=32, depth=2, key=jax.random.key(0))
    print(network(0.5, jnp.zeros(2)).shape)  # (2,)

    flow = fp.fm_flow(network, shape=(2,))
    print(flow.velocity(0.5, jnp.zeros(2)).shape)  # (2,)
    ```

    **Arguments:**

    - `shape`: the shape of one point, without the batch axis.
    - `condition_size`: the number of numbers in one condition, over all leaves of its PyTree. 0, the default, means no
      condition.
    - `width`: the size of each hidden layer, 256 by default.
    - `depth`: the number of hidden layers, 3 by default.
    - `out_shape`: the shape of the output. By default `shape`; use `(classes,)` for the logits of a categorical
      prediction.
    - `activation`: the function between layers, `tanh` by default. A function of `jax.nn` that cannot be pickled is
      replaced by an equal one that can.
    - `time_features`: the features of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, or `condition_size` is negative.
    """

    gates: tuple[Linear, ...]
    shifts: tuple[Linear, ...]

    @checked
    def __init__(
        self,
        shape: tuple[int, ...],
        condition_size: int = 0,
        width: int = 256,
        depth: int = 3,
        *,
        out_shape: tuple[int, ...] | None = None,
        activation: Callable[[Array], Array] = tanh,
        time_features: SinusoidalFeatures | None = None,
        key: PRNGKey,
    ) -> None:
        size, context_size, out_sizes = self._configure(
            shape, condition_size, width, depth, out_shape, activation, time_features, key
        )
        keys = jax.random.split(key, (3, depth + 1))
        self.layers = tuple(
            Linear(a, b, key=k) for (a, b), k in zip(pairwise((size, *out_sizes)), keys[0], strict=True)
        )
        self.gates = tuple(Linear(context_size, b, key=k) for b, k in zip(out_sizes, keys[1], strict=True))
        self.shifts = tuple(Linear(context_size, b, key=k) for b, k in zip(out_sizes, keys[2], strict=True))

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "*out_shape"]:
        """The output for one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point, an array of shape `shape`.
        - `x`: the condition, any PyTree with `condition_size` numbers in all; `None` if that is 0.

        **Returns:** an array of shape `out_shape`. Its dtype is the one to which `z` and the parameters promote.

        **Raises:** `ValueError` if `z` or `x` has another size.
        """
        h, context = self._point_and_context(t, z, x)
        for index, (layer, gate, shift) in enumerate(zip(self.layers, self.gates, self.shifts, strict=True)):
            h = layer(h if index == 0 else self.activation(h)) * jax.nn.sigmoid(gate(context)) + shift(context)
        return h.reshape(self.out_shape)
