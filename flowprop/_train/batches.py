"""Batches from the host: rows of memory-mapped files, and iterators of batches."""

import contextlib
import copy
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from .._types import PRNGKey
from .data import collect, is_array, release
from .loop import Source, epoch_order


Item = TypeVar("Item")
#: How many rows are read before the pages of a mapped file are given back.
_PIECE = 512


class Position(NamedTuple):
    """Where a stream is: the state of an iterator that has one, and the rows read since."""

    iterator: Any
    rows: int


def advanced(position: Position | None, rows: int) -> Position:
    """The position some rows later; `None` is the beginning."""
    iterator, read = position or Position(None, 0)
    return Position(iterator, read + rows)


class Chunk(NamedTuple):
    """Some batches, one after another along the first axis, and the position of the stream after them."""

    batches: Source
    steps: int
    position: Position | None


class HostRows:
    """Batches of rows of arrays that stay on the host, in the order in which arrays on the device are read.

    **Arguments:**

    - `source`: the arrays, the weights, and the rows to train on or `None` for all.
    - `batch_size`: the number of rows in a batch.
    - `key`: the key of the training state.
    """

    def __init__(self, source: Source, batch_size: int, key: PRNGKey) -> None:
        self._source, self._batch_size, self._key = source, batch_size, key
        arrays = jax.tree.leaves(source.data)
        self._num_examples = len(arrays[0]) if source.rows is None else len(source.rows)
        self._per_epoch = self._num_examples // batch_size
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def read(self, first: int, count: int) -> Chunk:
        """The batches of `count` steps after step `first`."""
        rows = np.stack([self._rows(step) for step in range(first, first + count)])
        batches = jax.tree.map(lambda array: gather(array, rows), self._source._replace(rows=None))
        return Chunk(batches, count, None)

    def _rows(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self._per_epoch)
        if epoch != self._epoch[0]:
            order = np.asarray(epoch_order(self._key, np.asarray(step), self._num_examples, self._batch_size))
            self._epoch = epoch, order if self._source.rows is None else np.asarray(self._source.rows)[order]
        return self._epoch[1][place * self._batch_size :][: self._batch_size]


class Stream:
    """Batches of one size from an iterable of batches of any size.

    Rows that are left of one batch begin the next, so that no row is lost and all batches have the same size. An
    iterable that can be read again is read again when it ends.

    **Arguments:**

    - `batches`: an iterable; each item is an array or a tuple with one entry for each argument of the loss.
    - `batch_size`: the number of rows in a batch.
    """

    def __init__(self, batches: Iterable[Any], batch_size: int) -> None:
        self._batches, self._batch_size = batches, batch_size
        self._iterator: Any = iter(batches)
        self._left: tuple[PyTree, ...] | None = None
        self._structure: Any = None
        # The state before the first row that is not read yet, and the number of its rows that are.
        self._mark = Position(None, 0)

    def seek(self, position: Position) -> None:
        """Go on from a position that `read` of an earlier stream returned. This stream is at its beginning."""
        iterator, skipped = position
        if iterator is not None:
            self._iterator.set_state(iterator)
            self._left, self._mark = None, Position(iterator, 0)
        while skipped:
            skipped -= _size(self._take(skipped))

    def peek(self) -> tuple[PyTree, ...]:
        """Some of the next rows, which stay in the stream."""
        try:
            batch = self._take(self._batch_size)
        except EndOfDataError:
            raise ValueError("`data` is an iterator without batches: give at least one batch") from None
        self._left = batch if self._left is None else _joined([batch, self._left])
        self._mark = self._mark._replace(rows=self._mark.rows - _size(batch))
        return batch

    def read(self, first: int, count: int) -> Chunk:
        """The next `count` batches, or fewer if the data end."""
        batches: list[tuple[PyTree, ...]] = []
        with contextlib.suppress(EndOfDataError):
            while len(batches) < count:
                batches.append(self._batch())
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *batches) if batches else ()
        return Chunk(Source(stacked), len(batches), self._mark)

    def _batch(self) -> tuple[PyTree, ...]:
        parts: list[tuple[PyTree, ...]] = []
        missing = self._batch_size
        while missing:
            parts.append(self._take(missing))
            missing -= _size(parts[-1])
        return _joined(parts)

    def _take(self, most: int) -> tuple[PyTree, ...]:
        """At most this many of the next rows, at least one."""
        if self._left is None:
            self._left = self._next()
        size = _size(self._left)
        taken = jax.tree.map(lambda array: array[:most], self._left)
        self._left = None if size <= most else jax.tree.map(lambda array: array[most:], self._left)
        self._mark = self._mark._replace(rows=self._mark.rows + min(size, most))
        return taken

    def _next(self) -> tuple[PyTree, ...]:
        if callable(getattr(self._iterator, "get_state", None)):
            # A copy, since an iterator may change its own state in place.
            self._mark = Position(copy.deepcopy(self._iterator.get_state()), 0)
        try:
            item = next(self._iterator)
        except StopIteration:
            again = iter(self._batches)
            if again is self._iterator:
                raise EndOfDataError from None
            self._iterator = again
            try:
                item = next(again)
            except StopIteration:
                raise ValueError("`data` is an iterable without batches: give at least one batch") from None
        entries = jax.tree.map(np.asarray, collect(item if isinstance(item, tuple | list) else (item,)))
        structure = jax.tree.structure(entries), [(a.shape[1:], a.dtype) for a in jax.tree.leaves(entries)]
        if self._structure not in (None, structure):
            raise ValueError(
                f"`data` gives examples of {structure[1]} after examples of {self._structure[1]}: give all batches the "
                "same shapes and types"
            )
        self._structure = structure
        return entries


class EndOfDataError(Exception):
    """An iterator that cannot be read again has ended."""


def _size(batch: PyTree) -> int:
    return len(jax.tree.leaves(batch)[0])


def _joined(batches: list[tuple[PyTree, ...]]) -> tuple[PyTree, ...]:
    return batches[0] if len(batches) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *batches)


def is_stream(data: Any) -> bool:
    """Whether `data` is an iterable of batches rather than arrays."""
    return isinstance(data, Iterable) and not (
        isinstance(data, tuple | list | dict | set | frozenset | str | bytes) or is_array(data)
    )


def gather(array: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an array on the host, read in the order in which a file holds them."""
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    found = np.empty((flat.size, *array.shape[1:]), array.dtype)
    # One row of a mapped file may bring hundreds of kilobytes around it into memory.
    for piece in np.split(order, range(_PIECE, len(order), _PIECE)):
        found[piece] = array[flat[piece]]
        release(array)
    return found.reshape(*rows.shape, *array.shape[1:])


def prefetched(make: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """The items of an iterator that runs in a thread of its own, one item ahead."""
    items: queue.Queue = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                return items.put((kind, value), timeout=0.1)
            except queue.Full:
                pass

    def run() -> None:
        try:
            for item in make():
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=run, name="flowprop-batches", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = items.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()
