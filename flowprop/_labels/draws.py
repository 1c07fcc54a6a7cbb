"""Many random draws for each of many inputs, in bounded memory."""

from collections.abc import Callable

from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, PyTree

from .._batch import example_keys, in_batches
from .._rows import is_finite, nan_unless, zeros_unless
from .._types import PRNGKey


#: The number of draws, over all inputs, that are computed at once by default.
DRAWS_AT_ONCE = 1024


def over_draws(
    encode: Callable[[Array], PyTree],
    draw: Callable[[PyTree, PRNGKey], tuple[Array, Bool[Array, ""]]],
    collect: Callable[[Array], Array],
    inputs: Array,
    key: PRNGKey,
    num_draws: int,
    batch_size: int | None,
    rows: NamedSharding | None,
) -> Array:
    """For each input, `collect` of `num_draws` results of `draw(encode(input), key)`, each with its own key.

    Each input is encoded once. The result for an input depends on `key` and on its position, not on the other inputs. A
    draw is NaN if it fails, or if the input or its code is not finite. (The input is checked as well as its code: on a
    CPU, compiled code may turn NaN into 0 in `jax.nn.relu` after a convolution.)

    **Arguments:**

    - `encode`: a function from one input to its code, which all of its draws share.
    - `draw`: a function from a code and a key to one draw, and whether it succeeded. It gets zeros for a code that is
      not finite.
    - `collect`: a function from the draws of one input, along a first axis, to its result.
    - `inputs`: a batch.
    - `key`: the key of all draws.
    - `num_draws`: the number of draws for each input.
    - `batch_size`: how many inputs are computed at once. By default as many as give 1024 draws. The draws of one input
      are computed at most 1024 at once.
    - `rows`: how the inputs are spread over devices, as `row_sharding` finds it.
    """
    if batch_size is None:
        batch_size = max(1, DRAWS_AT_ONCE // num_draws)

    def one(example: Array, key: PRNGKey) -> Array:
        code = encode(example)
        good = is_finite((example, code))
        code = zeros_unless(good, code)

        def one_draw(key: PRNGKey) -> Array:
            value, succeeded = draw(code, key)
            return nan_unless(good & succeeded, value)

        return collect(in_batches(one_draw, (example_keys(key, num_draws),), DRAWS_AT_ONCE))

    return in_batches(one, (inputs, example_keys(key, inputs.shape[0])), batch_size, rows=rows)
