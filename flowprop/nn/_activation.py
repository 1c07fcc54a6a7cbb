"""Activations that can be pickled.

The activations of JAX are jitted functions, which `pickle` refuses: it stores a function by its name, and the name of
`jax.nn.silu` refers to the function that was jitted, which is another object. Each function here calls one of JAX's.
Its `__wrapped__` is that function of JAX, so that `flowprop.save` writes the same name for both.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


Activation = Callable[[Array], Array]
_TWINS: list[tuple[Activation, Activation]] = []


def picklable(activation: Activation) -> Activation:
    """The function of this module that equals `activation`, or `activation` itself if there is none."""
    return next((twin for original, twin in _TWINS if original is activation), activation)


def _twin_of(original: Activation) -> Callable[[Activation], Activation]:
    def register(twin: Activation) -> Activation:
        twin.__wrapped__ = original  # type: ignore[attr-defined]
        _TWINS.append((original, twin))
        return twin

    return register


@_twin_of(jax.nn.celu)
def celu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.celu(x)


@_twin_of(jax.nn.elu)
def elu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.elu(x)


@_twin_of(jax.nn.hard_sigmoid)
def hard_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.hard_sigmoid(x)


@_twin_of(jax.nn.hard_silu)
def hard_silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.hard_silu(x)


@_twin_of(jax.nn.hard_tanh)
def hard_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.hard_tanh(x)


@_twin_of(jax.nn.leaky_relu)
def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.leaky_relu(x)


@_twin_of(jax.nn.log_sigmoid)
def log_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.log_sigmoid(x)


@_twin_of(jax.nn.mish)
def mish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.mish(x)


@_twin_of(jax.nn.relu)
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.relu(x)


@_twin_of(jax.nn.relu6)
def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.relu6(x)


@_twin_of(jax.nn.selu)
def selu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.selu(x)


@_twin_of(jax.nn.sigmoid)
def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.sigmoid(x)


@_twin_of(jax.nn.silu)
def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.silu(x)


@_twin_of(jax.nn.soft_sign)
def soft_sign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.soft_sign(x)


@_twin_of(jax.nn.softplus)
def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.softplus(x)


@_twin_of(jax.nn.squareplus)
def squareplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.squareplus(x)


@_twin_of(jnp.tanh)
def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.tanh(x)


@_twin_of(jnp.sin)
def sin(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.sin(x)


@_twin_of(jnp.cos)
def cos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.cos(x)
