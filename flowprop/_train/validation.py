"""A share of the data that is not trained on, and the loss there."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer

from .._types import PRNGKey
from .loop import Source
from .loss import evaluate_loss
from .step import Static


#: A validation loss is the mean over at least this many draws of times and noise: few rows are used many times.
DRAWS = 2048


def split(num_examples: int, share: float, *, key: PRNGKey) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on, in order, and the rows of a random share. Both depend on the key and the sizes alone.

    **Raises:** `ValueError` if one of the two is empty.
    """
    count = round(share * num_examples)
    if not 0 < count < num_examples:
        raise ValueError(
            f"`validation` is {share}, which leaves {count} of {num_examples} examples for validation: give a larger "
            "share, or arrays of their own"
        )
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, _SPLIT), num_examples))
    return np.sort(order[count:]), np.sort(order[:count])


class ValidationLoss:
    """The mean loss over examples that are not trained on, without noise from one evaluation to the next.

    Each evaluation uses the same batches, times and noise, and the model as in use: `equinox.nn.inference_mode` turns
    dropout off, and a batch normalisation uses its running statistics.

    **Arguments:**

    - `source`: the examples on the device, their weights, and the rows of these for validation or `None` for all.
    - `batch_size`: the number of examples in a batch; fewer if there are fewer.
    - `key`: for the batches and the draws of the loss.
    """

    def __init__(self, source: Source, *, batch_size: int, key: PRNGKey) -> None:
        key_order, self._key = jax.random.split(jax.random.fold_in(key, _LOSS))
        rows = source.rows
        count = len(jax.tree.leaves(source.data)[0]) if rows is None else len(rows)
        size = min(batch_size, count)
        passes = math.ceil(DRAWS / (count // size * size))
        # The last incomplete batch of a pass is left out; another pass leaves out other rows.
        plan = [
            np.asarray(jax.random.permutation(key, count))[: count // size * size].reshape(-1, size)
            for key in jax.random.split(key_order, passes)
        ]
        self._plan = jnp.asarray(np.concatenate(plan) if rows is None else np.asarray(rows)[np.concatenate(plan)])
        self._source = source._replace(rows=None)
        #: The number of examples that one evaluation reads.
        self.num_examples = self._plan.size

    def __call__(self, model: Any) -> dict[str, float]:
        """`validation_loss`, and `validation_` with the name of each metric of the loss."""
        arrays, static = eqx.partition(model, eqx.is_array)
        values = _compiled(Static(static))(arrays, self._source, self._plan, self._key)
        return {f"validation_{name}": float(value) for name, value in values.items()}


# Other streams of draws than those of training, from the same key.
_SPLIT, _LOSS = 1_000_003, 1_000_033


def _mean_loss(
    static: Static, arrays: Any, source: Source, plan: Integer[Array, "batches rows"], key: PRNGKey
) -> dict[str, Array]:
    model = eqx.nn.inference_mode(eqx.combine(arrays, static.tree))

    def loss(rows_and_key: tuple[Array, Array]) -> dict[str, Array]:
        rows, key = rows_and_key
        batch = jax.tree.map(lambda array: array[rows], source)
        value, metrics, _ = evaluate_loss(model, batch.data, batch.weights, key=key)
        return {"loss": value, **metrics}

    values = jax.lax.map(loss, (plan, jax.random.split(key, plan.shape[0])))
    return {name: jnp.mean(value.astype(jnp.result_type(value, jnp.float32))) for name, value in values.items()}


def _compiled(static: Static) -> Any:
    try:
        hash(static)
    except TypeError:  # a static field that cannot be hashed
        return _jitted.__wrapped__(static)
    return _jitted(static)


@functools.lru_cache(maxsize=16)
def _jitted(static: Static) -> Any:
    return jax.jit(functools.partial(_mean_loss, static))
