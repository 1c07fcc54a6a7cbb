"""The flow of one block of `NoPropDT`: its network, trained at its time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._flow.flow import Flow
from .._loss.time_sampling import AbstractTimeSampling
from .._types import PRNGKey
from .stacked import arrays_of, with_arrays


class BlockTime(AbstractTimeSampling):
    """Always the same time: that of a block's input, as a fraction of the flow's span."""

    time: float

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jnp.full(num_times, self.time)


def block_flow(flow: Flow, index: int, time: np.float32) -> Flow:
    """The flow of block `index`, from a flow whose network stacks all blocks. The block's input is at `time`."""
    flow = with_arrays(flow, jax.tree.map(lambda array: array[index], arrays_of(flow.network)))
    start, end = flow.span
    return eqx.tree_at(lambda flow: flow.time_sampling, flow, BlockTime(float(time - start) / (end - start)))
