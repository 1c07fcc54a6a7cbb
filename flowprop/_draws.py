"""Many random draws for each of many inputs, in bounded memory."""

from collections.abc import Callable

from jaxtyping import Array, Bool, PyTree

from ._batch import example_keys, in_batches
from ._rows import is_finite, nan_unless, zeros_unless
from ._types import PRNGKey


#: How many draws are computed at once, over all inputs, unless the caller chooses a batch size.
DRAWS_AT_ONCE = 1024


def over_draws(
    encode: Callable[[Array], PyTree],
    draw: Callable[[PyTree, PRNGKey], tuple[Array, Bool[Array, ""]]],
    collect: Callable[[Array], Array],
    inputs: Array,
    key: PRNGKey,
    num_draws: int,
    batch_size: int | None,
) -> Array:
    """`collect(draws)` for each input, its `draws` being `draw(encode(input), key)` for `num_draws` keys.

    Each input is encoded once. The result for an input depends on its place and on `key`, not on its batch. A draw is
    NaN if it fails, or if the input or its code is not finite. (The input is checked too: compiled for a CPU,
    `jax.nn.relu` may make 0 of NaN.)

    **Arguments:**

    - `encode`: from one input to what its draws share.
    - `draw`: from that and a key to one draw, and whether it succeeded. It gets zeros for a code that is not finite.
    - `collect`: from one input's draws, along a first axis, to its result.
    - `inputs`: a batch.
    - `key`: split into one for each input, and each of these into one for each draw.
    - `num_draws`: for each input.
    - `batch_size`: how many inputs are computed at once. By default as many as make 1024 draws. The draws of one
      input are computed 1024 at once.
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

    return in_batches(one, (inputs, example_keys(key, inputs.shape[0])), batch_size)
