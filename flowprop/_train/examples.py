"""The examples of a training: where they are, which are trained on, and which are for validation."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree

from .._checked import is_key
from .._types import PRNGKey, check_number
from .batches import HostRows, Position, Stream, gather, is_stream
from .data import check_finite, collect, example_weights, named_arrays, release
from .devices import Layout, layout_of
from .loop import Source
from .loss import check_loss
from .validation import ValidationLoss, split


#: Of memory-mapped data, a model checks this many rows, evenly spaced.
CHECKED_ROWS = 10_000


@runtime_checkable
class ChecksData(Protocol):
    """A model that checks the whole data set before training. It raises an error or warns."""

    def check_data(self, *data: PyTree) -> None: ...


class Examples(NamedTuple):
    """The examples of a training."""

    #: All data on the device, or `None` if batches are read from the host.
    source: Source | None
    #: Makes the reader of batches from the host: from the key of the state, and a position in a stream.
    reader: Callable[[PRNGKey, Position | None], HostRows | Stream] | None
    #: The number of examples to train on, or `None` if it is not known.
    num_examples: int | None
    #: The shapes and types of one example.
    example: Source
    validation: ValidationLoss | None
    layout: Layout
    #: What a checkpoint compares: the arrays, the weights and the validation.
    parts: PyTree


def gather_examples(
    model: Any, data: Any, weights: Any, validation: Any, *, batch_size: int, mesh: Any, key: PRNGKey
) -> Examples:
    """Check the data that a caller gives to `fit`, and place them.

    **Raises:** `TypeError` or `ValueError`, before any work; the message names the argument.
    """
    if is_stream(data):
        return _streamed(model, data, weights, validation, batch_size=batch_size, mesh=mesh, key=key)
    entries = collect(data)
    num_examples = named_arrays(entries)[0][1].shape[0]
    if not 0 < batch_size <= num_examples:
        raise ValueError(f"`batch_size` is {batch_size} where `data` has {num_examples} examples: give at most as many")
    check_loss(model, entries, weights)
    scaled = None if weights is None else example_weights(weights, num_examples).astype(float)
    check_finite(entries)
    _check_data(model, entries)
    rows, held_out = None, None
    if isinstance(validation, float | int) and not isinstance(validation, bool):
        check_number("validation", validation, above=0, below=1, remedy="give a share between 0 and 1, or arrays")
        rows, held_out = split(num_examples, validation, key=key)
        if batch_size > len(rows):
            raise ValueError(
                f"`batch_size` is {batch_size} where {len(rows)} examples are left for training: give at most as many"
            )
    layout = layout_of(mesh, entries, batch_size)
    source = Source(entries, scaled, rows)
    example = _example(entries, scaled)
    parts = (entries, scaled, validation)
    count = num_examples if rows is None else len(rows)
    if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(entries)):
        if held_out is not None:
            validation = layout.place(Source(*jax.tree.map(lambda array: gather(array, held_out), (entries, scaled))))
            release(entries)
        found = _validation(model, validation, batch_size=batch_size, layout=layout, key=key)
        return Examples(None, lambda key, _: HostRows(source, batch_size, key), count, example, found, layout, parts)
    placed = layout.place(source)
    if held_out is not None:
        validation = placed._replace(rows=held_out)
    found = _validation(model, validation, batch_size=batch_size, layout=layout, key=key)
    return Examples(placed, None, count, example, found, layout, parts)


def _streamed(
    model: Any, data: Any, weights: Any, validation: Any, *, batch_size: int, mesh: Any, key: PRNGKey
) -> Examples:
    if weights is not None:
        raise ValueError("`weights` is given where `data` is an iterable of batches: let the loss take the weights")
    if isinstance(validation, float | int):
        raise ValueError(f"`validation` is {validation} where `data` is an iterable of batches: give arrays")
    first = Stream(data, batch_size)
    entries = first.peek()
    check_loss(model, entries)
    check_finite(entries)
    _check_data(model, entries)
    layout = layout_of(mesh, (), batch_size)
    found = _validation(model, validation, batch_size=batch_size, layout=layout, key=key)

    def reader(key: PRNGKey, position: Position | None) -> Stream:
        return first if position is None else Stream(data, batch_size, position)

    return Examples(None, reader, None, _example(entries, None), found, layout, validation)


def _validation(model: Any, validation: Any, *, batch_size: int, layout: Layout, key: PRNGKey) -> ValidationLoss | None:
    """The validation loss; `validation` is placed examples, arrays of the caller, or `None`."""
    if validation is None:
        return None
    if not isinstance(validation, Source):
        entries = collect(validation, "validation")
        check_loss(model, entries)
        check_finite(entries, "validation")
        _check_data(model, entries)
        validation = layout.place(Source(entries))
    return ValidationLoss(validation, batch_size=batch_size, key=key)


def _check_data(model: Any, entries: tuple[PyTree, ...]) -> None:
    if not isinstance(model, ChecksData):
        return
    if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(entries)):
        count = named_arrays(entries)[0][1].shape[0]
        rows = np.unique(np.linspace(0, count - 1, CHECKED_ROWS).astype(int))
        entries = jax.tree.map(lambda array: np.asarray(array[rows]), entries)
    model.check_data(*entries)


def _example(entries: tuple[PyTree, ...], weights: np.ndarray | None) -> Source:
    def one(array: Any) -> jax.ShapeDtypeStruct:
        dtype = array.dtype if is_key(array) else jax.dtypes.canonicalize_dtype(array.dtype)
        return jax.ShapeDtypeStruct(array.shape[1:], dtype)

    return jax.tree.map(one, Source(entries, weights))
