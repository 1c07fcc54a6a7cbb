"""The entries of a file: one JSON header, and an npy entry for each array."""

import contextlib
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from .structure import NUMBERS, Node, is_array, is_value


FORMAT = "flowprop-2"
_HEADER = "header.json"
#: 16 MiB describe a model of about 100,000 arrays.
_LARGEST_HEADER = 2**24
#: The most lists and dicts in a header: Python needs up to 250 bytes for each.
_MOST_NODES = 2**20
#: The largest size of the part of an npy entry before the values.
_LARGEST_ARRAY_HEADER = 1024
_CHUNK = 2**24


class Mismatch(ValueError):
    """An error for an undamaged file that holds another model or format than the one that was asked for."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """An open file, of which any error says that it is damaged."""
    with open(path, "rb") as file:
        try:
            yield file
        except (Mismatch, MemoryError):
            raise
        except Exception as error:  # a damaged file may raise any error: a password is missing, the JSON is a number
            raise ValueError(f"`path` {path} is damaged or not a file of `fp.save`: {error}") from error


def read_header(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    text = _entry(archive, _HEADER, _LARGEST_HEADER).read()
    if _num_nodes(text) > _MOST_NODES:
        raise ValueError(f"its entry {_HEADER} has more than {_MOST_NODES} parts")
    header = json.loads(text)
    if header["format"] != FORMAT:
        raise Mismatch(
            f"`path` {path} has format {header['format']!r} where this version reads {FORMAT!r}: "
            "read it with the version of flowprop that wrote it, or a newer one"
        )
    return header


def write_header(archive: zipfile.ZipFile, header: dict[str, Any]) -> None:
    text = json.dumps({"format": FORMAT, **header}).encode()
    if len(text) > _LARGEST_HEADER or _num_nodes(text) > _MOST_NODES:
        raise ValueError(
            f"`model` needs a description of {len(text)} bytes, and `fp.load` reads at most {_LARGEST_HEADER}: "
            "combine numbers into arrays"
        )
    archive.writestr(zipfile.ZipInfo(_HEADER), text)


def _num_nodes(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a leaf in a file: the npy format has neither keys nor bfloat16."""
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    dtype = np.dtype(leaf.dtype)
    return leaf.shape, np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def num_bytes(leaf: Any) -> int:
    """The size of a leaf's values in a file."""
    shape, dtype = _plain(leaf)
    return math.prod(shape) * dtype.itemsize


def write_array(archive: zipfile.ZipFile, name: str, leaf: Any) -> None:
    values = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf, order="C").view(_plain(leaf)[1])
    # An entry without a date, so that the same model gives the same file.
    info = zipfile.ZipInfo(name)
    info.file_size = _LARGEST_ARRAY_HEADER + values.nbytes
    with archive.open(info, "w") as stream:
        np.lib.format.write_array(stream, values, version=(1, 0), allow_pickle=False)


def _entry(archive: zipfile.ZipFile, name: str, largest: int) -> zipfile.ZipExtFile:
    """An entry to read. It is not compressed and has at most `largest` bytes."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"its entry {name} is compressed, which `fp.save` never does")
    if info.file_size > largest:
        raise ValueError(f"its entry {name} has {info.file_size} bytes where at most {largest} are allowed")
    return cast(zipfile.ZipExtFile, archive.open(info))


def read_leaf(archive: zipfile.ZipFile, node: Node, leaf: Any) -> Any:
    if is_array(leaf):
        return _array(archive, node["file"], leaf)
    if not is_value(leaf):
        return leaf
    kind, value = type(leaf), node["value"]
    if kind is complex and [type(part) for part in value] == [float, float]:
        return complex(*value)
    if type(value) is not kind:
        raise ValueError(f"its header has the value {value!r} for {NUMBERS[kind]}")
    return value


def _array(archive: zipfile.ZipFile, name: str, leaf: Any) -> Any:
    shape, dtype = _plain(leaf)
    with _entry(archive, name, _LARGEST_ARRAY_HEADER + num_bytes(leaf)) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"its entry {name} is not an npy array of version 1.0")
        found = np.lib.format.read_array_header_1_0(stream)
        if found != (shape, False, dtype):
            raise ValueError(f"its entry {name} holds {found[2]}{list(found[0])}, which differs from its header")
        array = np.empty(shape, dtype)
        _fill(array, stream, name)
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(jnp.empty((), leaf.dtype)))
    array = array.view(leaf.dtype)
    if isinstance(leaf, np.generic):
        return array[()]
    return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)


def _fill(array: np.ndarray, stream: zipfile.ZipExtFile, name: str) -> None:
    """Read the values of a new array in chunks, and not a single byte more."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        piece = stream.read(min(len(left), _CHUNK))
        if not piece:
            raise ValueError(f"its entry {name} ends before its last value")
        left[: len(piece)] = piece
        left = left[len(piece) :]
    if stream.read(1):
        raise ValueError(f"its entry {name} continues after its last value")
