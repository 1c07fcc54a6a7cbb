"""Networks on flattened points."""

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


def _check_sizes(
    shape: tuple[int, ...],
    out_shape: tuple[int, ...] | None,
    width: int,
    depth: int,
    condition_size: int,
    key: PRNGKey,
) -> None:
    check_key("key", key)
    check_positive(width=width, depth=depth)
    if condition_size < 0:
        raise ValueError(f"`condition_size` is {condition_size}: give 0 for no condition")
    for name, sizes in (("shape", shape), ("out_shape", out_shape or ())):
        if any(size < 1 for size in sizes):
            raise ValueError(f"`{name}` is {sizes}: give positive sizes, without the batch axis")


def _flatten_condition(x: PyTree, condition_size: int) -> Float[Array, " condition_size"]:
    """All leaves of one example's condition as a vector, its size checked."""
    vector = jnp.concatenate([jnp.zeros(0), *(jnp.ravel(leaf) for leaf in jax.tree.leaves(x))])
    check_shape("x", vector, (condition_size,), "the network's `condition_size` counts all numbers of one condition")
    return vector


class MLP(eqx.Module):
    """A multilayer perceptron on the point, features of the time, and the condition.

    **Arguments:**

    - `shape`: of one point.
    - `condition_size`: how many numbers a condition holds; 0 for none.
    - `width`, `depth`: of the hidden layers, and how many of them.
    - `out_shape`: of the output. By default `shape`; `(classes,)` for a categorical prediction.
    - `activation`: the function between layers, `silu` by default. A function of `jax.nn` that cannot be pickled is
      replaced by one that can and does the same.
    - `time_features`: of the time. By default [`flowprop.nn.SinusoidalFeatures`][]`()`.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for a size that is not positive and, when called, for a point or condition
    of another size.
    """

    layers: tuple[Linear, ...]
    time_features: SinusoidalFeatures
    activation: Callable[[Array], Array]
    shape: tuple[int, ...] = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)
    condition_size: int = eqx.field(static=True)

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
        _check_sizes(shape, out_shape, width, depth, condition_size, key)
        self.time_features = SinusoidalFeatures() if time_features is None else time_features
        self.activation = picklable(activation)
        self.shape = shape
        self.out_shape = shape if out_shape is None else out_shape
        self.condition_size = condition_size
        in_size = math.prod(shape) + self.time_features.size + condition_size
        sizes = (in_size, *[width] * depth, math.prod(self.out_shape))
        # Variance is kept from layer to layer; the output begins small, a flow that hardly moves.
        gains = (1.0, *[2.0**0.5] * (depth - 1), 0.1)
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(
            Linear(size, next_size, gain=gain, key=k)
            for (size, next_size), gain, k in zip(pairwise(sizes), gains, keys, strict=True)
        )

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "*out_shape"]:
        """The output at time `t` and point `z` under condition `x`, each of one example."""
        check_shape("z", z, self.shape, "the network's `shape` is that of one point; use `jax.vmap` for a batch")
        features = self.time_features(jnp.asarray(t, z.dtype))
        condition = _flatten_condition(x, self.condition_size).astype(z.dtype)
        h = jnp.concatenate([z.ravel(), features, condition])
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h).reshape(self.out_shape)


class ConcatSquashMLP(eqx.Module):
    """A perceptron whose every layer is gated and shifted by time and condition (Grathwohl et al. 2019).

    Each layer is `(W h + b) sigmoid(G c) + B c`, with `c` the features of the time and the condition.

    **Arguments:** the same as for [`flowprop.nn.MLP`][]. Here `activation` is `tanh` by default.
    """

    layers: tuple[Linear, ...]
    gates: tuple[Linear, ...]
    shifts: tuple[Linear, ...]
    time_features: SinusoidalFeatures
    activation: Callable[[Array], Array]
    shape: tuple[int, ...] = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)
    condition_size: int = eqx.field(static=True)

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
        _check_sizes(shape, out_shape, width, depth, condition_size, key)
        self.time_features = SinusoidalFeatures() if time_features is None else time_features
        self.activation = picklable(activation)
        self.shape = shape
        self.out_shape = shape if out_shape is None else out_shape
        self.condition_size = condition_size
        sizes = (math.prod(shape), *[width] * depth, math.prod(self.out_shape))
        context_size = self.time_features.size + condition_size
        keys = jax.random.split(key, (3, depth + 1))
        self.layers = tuple(Linear(a, b, key=k) for (a, b), k in zip(pairwise(sizes), keys[0], strict=True))
        self.gates = tuple(Linear(context_size, b, key=k) for b, k in zip(sizes[1:], keys[1], strict=True))
        self.shifts = tuple(Linear(context_size, b, key=k) for b, k in zip(sizes[1:], keys[2], strict=True))

    @checked
    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Float[Array, "*out_shape"]:
        """The output at time `t` and point `z` under condition `x`, each of one example."""
        check_shape("z", z, self.shape, "the network's `shape` is that of one point; use `jax.vmap` for a batch")
        features = self.time_features(jnp.asarray(t, z.dtype))
        context = jnp.concatenate([features, _flatten_condition(x, self.condition_size).astype(z.dtype)])
        h = z.ravel()
        for index, (layer, gate, shift) in enumerate(zip(self.layers, self.gates, self.shifts, strict=True)):
            h = layer(h if index == 0 else self.activation(h)) * jax.nn.sigmoid(gate(context)) + shift(context)
        return h.reshape(self.out_shape)
