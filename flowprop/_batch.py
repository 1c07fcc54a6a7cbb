"""Many examples at once: a key for each, and batches that fit into memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from ._types import PRNGKey


def example_keys(key: PRNGKey, num_examples: int) -> Key[Array, " examples"]:
    """A key for each example that does not depend on how many there are."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_examples))


def in_batches(function: Callable[..., PyTree], arguments: PyTree, batch_size: int | None) -> PyTree:
    """`jax.vmap(function)(*arguments)`, at most `batch_size` examples at once.

    The last batch is filled up, so that one program serves all. Without a size, a CPU takes 1024
    at once: they stay in its cache, and fewer wait for the one that needs most steps.
    """
    num_examples = jax.tree.leaves(arguments)[0].shape[0]
    if batch_size is None:
        batch_size = 1024 if jax.default_backend() == "cpu" else num_examples
    num_batches = -(-num_examples // max(batch_size, 1))
    if num_batches <= 1:
        return jax.vmap(function)(*arguments)
    size = -(-num_examples // num_batches)
    rows = jnp.minimum(jnp.arange(num_batches * size), num_examples - 1).reshape(num_batches, size)
    values = jax.lax.map(lambda rows: jax.vmap(function)(*jax.tree.map(lambda leaf: leaf[rows], arguments)), rows)
    return jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:])[:num_examples], values)
