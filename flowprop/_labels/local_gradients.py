"""Gradients of independent blocks, computed one block at a time, so that peak memory is that of one block."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from .._types import PRNGKey, Scalar


def local_losses(
    loss: Callable[[PyTree, Array, PRNGKey], Scalar], parts: Sequence[PyTree], inputs: Array, keys: Key[Array, " parts"]
) -> Float[Array, " parts"]:
    """`loss(part, inputs, key)` of each part, for reverse-mode differentiation with respect to the parts.

    Automatic differentiation runs the forward passes of all parts, then all backward passes. In between it keeps the
    activations of all parts. The parts are independent, so this function runs the backward pass of each part right
    after its forward pass. Losses and gradients are the same, and only the activations of one part are in memory.
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
    """`inputs` with a data dependency on `gradient`: XLA cannot start the next part before this one's backward pass.

    The function adds a sum of zeros that XLA cannot simplify away. `jax.lax.optimization_barrier` does not do: on a
    CPU, XLA removes it before it schedules the operations (cf. openxla/xla#20440).
    """
    numbers = jnp.concatenate([jnp.ravel(leaf)[:1] for leaf in jax.tree.leaves(gradient)])
    zeros = 0 * jnp.where(jnp.isfinite(numbers), numbers, 0)
    return inputs + jnp.sum(zeros).astype(inputs.dtype)
