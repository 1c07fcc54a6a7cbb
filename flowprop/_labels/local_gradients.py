"""Gradients of parts that do not hear of one another, taken one after another in the memory of one."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from .._types import PRNGKey, Scalar


def local_losses(
    loss: Callable[[PyTree, Array, PRNGKey], Scalar], parts: Sequence[PyTree], inputs: Array, keys: Key[Array, " parts"]
) -> Float[Array, " parts"]:
    """`loss(part, inputs, key)` of each part, to be differentiated by reverse mode in the parts alone.

    Automatic differentiation runs all parts forward and then all back, and keeps what all of them
    computed in between. No gradient crosses from one to another, so here each is taken back before
    the next begins: the value is the same, the memory that of one part.
    """
    return _local_losses(list(parts), (loss, inputs, keys))


@eqx.filter_custom_vjp
def _local_losses(parts: list[PyTree], arguments: tuple) -> Array:
    loss, inputs, keys = arguments
    return jnp.stack([loss(part, inputs, key) for part, key in zip(parts, keys, strict=True)])


@_local_losses.def_fwd
def _forward(perturbed: PyTree, parts: list[PyTree], arguments: tuple) -> tuple[Array, list[PyTree]]:
    loss, inputs, keys = arguments
    losses, gradients = [], []
    for part, key in zip(parts, keys, strict=True):
        value, gradient = eqx.filter_value_and_grad(loss)(part, inputs, key)
        losses.append(value)
        gradients.append(gradient)
        inputs = _after(inputs, gradient)
    return jnp.stack(losses), gradients


@_local_losses.def_bwd
def _backward(
    gradients: list[PyTree], cotangents: Array, perturbed: PyTree, parts: list[PyTree], arguments: tuple
) -> list[PyTree]:
    return [
        jax.tree.map(lambda leaf, c=c: c * leaf, gradient) for c, gradient in zip(cotangents, gradients, strict=True)
    ]


def _after(inputs: Array, gradient: PyTree) -> Array:
    """The inputs as they are, but not before the gradient is there: it adds zeros that a compiler cannot foresee.

    (It does away with `jax.lax.optimization_barrier` before it decides what runs when.)
    """
    numbers = jnp.concatenate([jnp.ravel(leaf)[:1] for leaf in jax.tree.leaves(gradient)])
    zeros = 0 * jnp.where(jnp.isfinite(numbers), numbers, 0)
    return inputs + jnp.sum(zeros).astype(inputs.dtype)
