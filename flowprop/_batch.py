"""Many examples at once: a key for each, and batches that fit into memory."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

from ._types import PRNGKey


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
) -> PyTree:
    """`jax.vmap(function)(*arguments)`, with at most `batch_size` examples at once.

    The last batch is filled with copies of the last example, so that all batches use the same compiled program.

    **Arguments:**

    - `function`: a function of one example.
    - `arguments`: the arguments for many examples; each leaf has the batch axis.
    - `batch_size`: how many examples at once. With `None`, `default_batch_size` decides.
    - `numbers_per_example`: how many numbers the state of one example holds: its size, times one more than
      `max_products` if a divergence is part of the solve. By default the numbers in the arguments of one example.

    **Returns:** the results of `function`, with a batch axis.
    """
    leaves = jax.tree.leaves(arguments)
    num_examples = leaves[0].shape[0]
    if batch_size is None:
        numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
        batch_size = default_batch_size(numbers if numbers_per_example is None else numbers_per_example)
    num_batches = -(-num_examples // max(batch_size, 1))
    if num_batches <= 1:
        return jax.vmap(function)(*arguments)
    size = -(-num_examples // num_batches)
    rows = jnp.minimum(jnp.arange(num_batches * size), num_examples - 1).reshape(num_batches, size)
    values = jax.lax.map(lambda rows: jax.vmap(function)(*jax.tree.map(lambda leaf: leaf[rows], arguments)), rows)
    return jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:])[:num_examples], values)


def default_batch_size(numbers_per_example: int) -> int:
    """How many examples are solved at once: 1,024 on a CPU and 16,384 on other devices, or fewer if they are large.

    All of them together hold at most 2^24 numbers.
    """
    most = _MOST_EXAMPLES.get(jax.default_backend(), _MOST_ELSEWHERE)
    return max(1, min(most, _MOST_NUMBERS // max(numbers_per_example, 1)))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit(function)`, which also works on a mesh with explicit axes: the compiler distributes the work.

    On such a mesh, the default of `jax.make_mesh`, JAX requires every operation to state how its result is distributed
    over the devices. The loops of a solve do not state it. Inside `function` the axes are therefore automatic. Its
    results are arrays whose first axis counts examples. They are distributed in the same way as the first argument that
    is distributed over devices.
    """

    @eqx.filter_jit
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        arrays, others = eqx.partition(args, eqx.is_array)
        sharding = _explicit_sharding(arrays)
        if sharding is None:
            return function(*args)
        body = jax.sharding.auto_axes(lambda arrays: function(*eqx.combine(arrays, others)), out_sharding=sharding)
        return body(arrays)

    return call


def _explicit_sharding(arrays: PyTree) -> NamedSharding | None:
    """The sharding of the results, if there is a mesh with explicit axes; `None` if there is none."""
    # jax.typeof(array).sharding: its type is not public.
    shardings: list[Any] = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(arrays)]
    meshes = [sharding.mesh for sharding in shardings] + [jax.sharding.get_abstract_mesh()]
    mesh = next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)
    if mesh is None:
        return None
    axes = next((sharding.spec[0] for sharding in shardings if sharding.spec and sharding.spec[0] is not None), None)
    return NamedSharding(mesh, PartitionSpec(axes))
