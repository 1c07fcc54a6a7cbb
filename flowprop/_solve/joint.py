"""Adaptive steps that are the same for all examples of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Scalar


def joint_norm(y: PyTree) -> Scalar:
    """An error norm over all examples of a batch (root mean square), with which they all take the same steps.

    `y` has the norm `sqrt(mean y_i^2)`, the mean taken over all entries of all examples. Use it in a step-size
    controller: `dfx.PIDController(rtol=1e-5, atol=1e-5, norm=fp.joint_norm)`. The controller then bounds the mean error
    of the examples that are solved at once under one `jax.vmap`. These are the batches of [`flowprop.sample`][],
    [`flowprop.log_prob`][] and the classifier.

    Without it each example takes steps of its own. Joint steps are faster. But each result then depends, within the
    tolerance, on the other examples of its batch, and a single example may be less accurate.

    **Arguments:**

    - `y`: the scaled errors of one example, a PyTree of arrays.

    **Returns:** a scalar, the same for all examples. For a single example it is the value of Diffrax's default norm.

    ```python
    import diffrax as dfx
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    print(jax.vmap(fp.joint_norm)(jnp.array([[1.0, 1.0], [7.0, 7.0]])))  # [5. 5.]
    controller = dfx.PIDController(rtol=1e-5, atol=1e-5, norm=fp.joint_norm)
    integrator = fp.ODEIntegrator(stepsize_controller=controller)
    ```
    """
    leaves = [jax.lax.stop_gradient(leaf) for leaf in jax.tree.leaves(y)]
    mean = sum(jnp.sum(jnp.square(leaf)) for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jnp.sqrt(_over_examples(mean))


@jax.custom_batching.custom_vmap
def _over_examples(value: Scalar) -> Scalar:
    """The mean over every axis that `jax.vmap` maps.

    `jax.lax.pmean` over a named axis cannot replace it: the name of the axis is lost under gradients of a solve.
    """
    return value


@_over_examples.def_vmap
def _mean(axis_size: int, in_batched: list[bool], values: Float[Array, " examples"]) -> tuple[Scalar, bool]:
    return _over_examples(jnp.mean(values)), False
