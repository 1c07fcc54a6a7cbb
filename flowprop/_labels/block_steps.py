"""Prediction by the blocks of `NoPropDT`: the steps from noise to a label."""

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._flow.flow import Flow
from .._types import PRNGKey, Real
from .embedding import Embedding
from .label_loss import condition_of
from .stacked import arrays_of, with_arrays


def block_steps(
    flow: Flow,
    embedding: Embedding,
    features: PyTree,
    times: Float[np.ndarray, " times"],
    stochasticity: Real,
    *,
    key: PRNGKey,
) -> Float[Array, "*shape"]:
    """The end of one example's steps `z_i = a_i u_i + b_i z_{i-1} + sqrt(c_i) eps`, in data coordinates.

    **Arguments:**

    - `flow`: a flow whose network stacks all blocks.
    - `embedding`: the points of the classes.
    - `features`: of the example; each leaf has a first axis of blocks.
    - `times`: the T + 1 times between which the blocks step.
    - `stochasticity`: how much noise a step draws, from 0 (none) to 1 (the posterior's).
    - `key`: for the starting noise and the noise of the steps.
    """
    key_start, key_steps = jax.random.split(key)

    def step(z: Array, block: PyTree) -> tuple[Array, None]:
        arrays, features, start, end, key = block
        flow_of_block = with_arrays(flow, arrays)
        target = flow_of_block.estimate(start, z, condition_of(flow_of_block, features, embedding)).target
        a, b, noise_std = flow.path.posterior(start, end, stochasticity)
        return a * target + b * z + noise_std * jax.random.normal(key, z.shape, z.dtype), None

    keys = jax.random.split(key_steps, len(times) - 1)
    noise = flow.draw_noise(key=key_start).astype(embedding.matrix.dtype)
    blocks = (arrays_of(flow.network), features, times[:-1], times[1:], keys)
    z, _ = jax.lax.scan(step, noise, blocks)
    return z / flow.path.alpha(flow.path.span[1])
