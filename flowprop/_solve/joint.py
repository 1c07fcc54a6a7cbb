"""One sequence of steps for all examples of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Scalar


def joint_norm(y: PyTree) -> Scalar:
    """The root mean square over all examples of a batch, so that they take the same steps.

    Given to a controller, `dfx.PIDController(rtol=1e-5, atol=1e-5, norm=fp.joint_norm)`, it bounds the
    error's mean over the examples that are solved at once: those of a `jax.vmap`, and hence the batches
    of [`flowprop.sample`][], [`flowprop.log_prob`][] and the classifier. By default each example takes
    steps of its own. All together are faster, but a result then depends, within the tolerance, on its
    neighbours, and one among many may be less accurate.

    **Arguments:**

    - `y`: the scaled errors of one example.

    **Returns:** a scalar, the same for all examples; for one alone that of Diffrax's default norm.
    """
    leaves = [jax.lax.stop_gradient(leaf) for leaf in jax.tree.leaves(y)]
    mean = sum(jnp.sum(jnp.square(leaf)) for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jnp.sqrt(_over_examples(mean))


@jax.custom_batching.custom_vmap
def _over_examples(value: Scalar) -> Scalar:
    """The mean over every axis that is mapped. (A named axis is lost under gradients of a solve.)"""
    return value


@_over_examples.def_vmap
def _mean(axis_size: int, in_batched: list[bool], values: Float[Array, " examples"]) -> tuple[Scalar, bool]:
    return _over_examples(jnp.mean(values)), False
