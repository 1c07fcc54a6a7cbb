"""Many examples at once: a key for each, and batches that fit into memory."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, ArrayLike, Key, PyTree

from ._devices import on_each_device
from ._types import PRNGKey, is_traced


#: The largest number of examples that are solved at once. On a CPU, so many fit into the cache, and fewer examples wait
#: for the one that needs the most steps.
_MOST_EXAMPLES = {"cpu": 1024}
_MOST_ELSEWHERE = 16_384
#: The largest number of values in their states: 64 MB in single precision. A network needs a multiple of this.
_MOST_NUMBERS = 2**24


def example_keys(key: PRNGKey, num_examples: int) -> Key[Array, " examples"]:
    """A key for each example. The key of an example does not depend on the number of examples."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_examples))


def in_batches(
    function: Callable[..., PyTree],
    arguments: PyTree,
    batch_size: int | None,
    *,
    numbers_per_example: int | None = None,
    rows: NamedSharding | None = None,
) -> PyTree:
    """`jax.vmap(function)(*arguments)`, with at most `batch_size` examples at once.

    The last batch is filled with copies of the last example, so that all batches use the same compiled program.

    **Arguments:**

    - `function`: a function of one example.
    - `arguments`: the arguments for many examples; each leaf has the batch axis.
    - `batch_size`: how many examples at once. With `None`, `default_batch_size` decides.
    - `numbers_per_example`: how many numbers the state of one example holds: its size, times one more than
      `max_products` if a divergence is part of the solve. By default the numbers in the arguments of one example.
    - `rows`: how the examples are spread over devices, as `row_sharding` finds it. Each device then computes its own
      examples, at most `batch_size` at once, and waits for no other device. By default they are not spread.

    **Returns:** the results of `function`, with a batch axis.
    """
    if rows is not None:
        return on_each_device(
            lambda own: in_batches(function, own, batch_size, numbers_per_example=numbers_per_example), arguments, rows
        )
    leaves = jax.tree.leaves(arguments)
    num_examples = leaves[0].shape[0]
    if batch_size is None:
        numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
        batch_size = default_batch_size(numbers if numbers_per_example is None else numbers_per_example)
    num_batches = -(-num_examples // max(batch_size, 1))
    if num_batches <= 1:
        return jax.vmap(function)(*arguments)
    size = -(-num_examples // num_batches)
    surplus = num_batches * size - num_examples

    def split(leaf: Array) -> Array:
        """A batch takes every `num_batches`-th example, so that under `jax.jit` it spreads over devices as they do."""
        if surplus:
            leaf = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (surplus, *leaf.shape[1:]))])
        return jnp.swapaxes(leaf.reshape(size, num_batches, *leaf.shape[1:]), 0, 1)

    def join(value: Array) -> Array:
        return jnp.swapaxes(value, 0, 1).reshape(-1, *value.shape[2:])[:num_examples]

    values = jax.lax.map(lambda batch: jax.vmap(function)(*batch), jax.tree.map(split, arguments))
    return jax.tree.map(join, values)


def in_buckets(
    function: Callable[..., PyTree], count: int, arguments: PyTree, rows: NamedSharding | None, *others: PyTree
) -> PyTree:
    """`function(count, *arguments)` for a compiled function, with `count` increased to one of few numbers.

    A compiled function makes a program for each number of rows. Here the numbers are powers of two up to 64, four in
    each octave up to 1,024, and sixteen above. The last row is repeated, and its copies are dropped from the results.
    Nothing is padded if an argument is traced, or if the rows are spread over devices or large.

    **Arguments:**

    - `function`: a function of a number of rows and of their arguments. Row i of its results depends on row i of its
      arguments alone.
    - `count`: the number of rows.
    - `arguments`: the arguments; each leaf has the batch axis.
    - `rows`: how the rows are spread over devices.
    - `others`: other arguments of `function`, such as its key, which may be traced.

    **Returns:** the results of `function`.
    """
    surplus = bucket_size(count) - count
    is_large = sum(jnp.size(leaf) for leaf in jax.tree.leaves(arguments)) > _MOST_NUMBERS
    if not surplus or rows is not None or is_large or is_traced(arguments, others):
        return function(count, *arguments)

    def padded(leaf: ArrayLike) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], surplus, axis=0)])

    return jax.tree.map(lambda value: value[:count], function(count + surplus, *jax.tree.map(padded, arguments)))


def bucket_size(count: int) -> int:
    """The number of rows to which `count` rows are padded."""
    octave = 2 ** max((count - 1).bit_length() - 1, 0)
    step = max(octave // (1 if count <= 64 else 4 if count <= 1024 else 16), 1)
    return -(-count // step) * step


def default_batch_size(numbers_per_example: int) -> int:
    """How many examples are solved at once: 1,024 on a CPU and 16,384 on other devices, or fewer if they are large.

    All of them together hold at most 2^24 numbers.
    """
    most = _MOST_EXAMPLES.get(jax.default_backend(), _MOST_ELSEWHERE)
    return max(1, min(most, _MOST_NUMBERS // max(numbers_per_example, 1)))
