"""What only the training of a flow needs: times, the network in training, and what trains a path.

(`Flow.loss` uses these functions, so this file cannot import `Flow`.)
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._frozen import stop_gradient, trainable
from .._loss.schedule_loss import schedule_loss
from .._loss.weighting import ELBOWeighting
from .._path.learnable_schedule import with_fixed_shape as path_with_fixed_shape
from .._types import Point, PRNGKey, Scalar, Time
from .network import checked_output, train_network


def sample_times(flow: Any, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
    """Training times within the flow's span."""
    start, end = flow.span
    return start + (end - start) * flow.time_sampling.sample(num_times, key=key)


def training_output(flow: Any, t: Time, z: Point, features: PyTree = None, *, key: PRNGKey) -> tuple[Array, PyTree]:
    """The network's output in training, where it may draw random numbers, and its new state if it has one."""
    condition, shape = flow.prediction.interface(flow.shape, features)
    output, state = train_network(flow.network, t, z, condition, key)
    return checked_output(output, shape, z), state


def with_fixed_path(flow: Any) -> Any:
    """A flow with no gradient into its path: `schedule_term` trains the path."""
    return eqx.tree_at(lambda flow: flow.path, flow, stop_gradient(flow.path))


def with_fixed_shape(flow: Any) -> Any:
    """A flow with no gradient into its path, except into the end points of a schedule."""
    return eqx.tree_at(lambda flow: flow.path, flow, path_with_fixed_shape(flow.path))


def schedule_term(flow: Any, t: Float[Array, " batch"], errors: Float[Array, " batch"]) -> Scalar:
    """A term of value 0 whose gradient trains a learnable schedule, from a batch's unweighted errors."""
    if not any(jax.tree.leaves(trainable(flow.path))):
        return jnp.zeros((), errors.dtype)
    weights = ELBOWeighting().weight(flow.path, flow.prediction, t)
    return schedule_loss(flow.path, t, jax.lax.stop_gradient(weights * errors))
