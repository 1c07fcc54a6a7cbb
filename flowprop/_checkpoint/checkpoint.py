"""`save` writes a model to a file, and `load` reads it."""

import json
import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from .._types import checked
from .replace import check_regular, replacing
from .structure import NUMBERS, Node, describe, differences, is_array, is_value, leaves


Model = TypeVar("Model")

_FORMAT = "flowprop-2"
_HEADER = "header.json"
#: 16 MiB describe a model of about 100,000 arrays.
_LARGEST_HEADER = 2**24
#: The largest size of the part of an npy entry before the values.
_LARGEST_ARRAY_HEADER = 1024
_CHUNK = 2**24
_MOST_DIFFERENCES = 8


@checked
def save(path: str | os.PathLike[str], model: Any) -> None:
    """Write a model's arrays and numbers to a file, with a description of its structure.

    The file is a zip without compression. It holds one `.npy` entry for each array and a JSON header with the numbers
    (`bool`, `int`, `float`, `complex`) and a description of the model's structure: the class of every node, its static
    fields, and every function. [`flowprop.load`][] compares this description with the model that you give it.

    - Classes and functions are described by name, without the private parts of their modules: `flowprop.nn.MLP`,
      `jax.silu`. Two functions of the same name, such as two lambdas in the same function, cannot be distinguished.
    - A `functools.partial` is described with its arguments; an array in a static field by a digest; any other object by
      its `repr`, or by its class alone if the `repr` shows a memory address.
    - Other leaves, such as strings, are described and compared in the same way. They are not loaded.

    The file appears completely or not at all: `save` writes it beside `path` as `.NAME.HEX.part`, syncs it to disk, and
    renames it. If several processes save to one path, the last one wins. `save` also removes part files of the same
    name that have not been written to for ten minutes: they are left over from saves that were killed.

    **Arguments:**

    - `path`: the path of the file, in a folder that exists. An existing file is replaced, and the new file keeps its
      mode. If `path` is a link, `save` replaces the file that it points to.
    - `model`: any PyTree of arrays, Python numbers and functions.

    **Returns:** nothing.

    **Raises:** `OSError` if the file cannot be written; then no part of it is left. `ValueError` if `path` is a folder,
    a device, a pipe or a socket, or if the description is larger than 16 MiB. `TypeError` if a leaf has no values, or
    is neither an array nor a number and cannot be described.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    fp.save("flow.fp", flow)
    ```
    """
    tree = describe(model)
    with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        places = jax.tree_util.tree_leaves_with_path(model)
        for index, ((place, leaf), node) in enumerate(zip(places, leaves(tree, tree), strict=True)):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                where = jax.tree_util.keystr(place)
                raise TypeError(f"`model` holds a shape without values at `{where}`: give a model with arrays")
            if is_array(leaf):
                node["file"] = f"{index}.npy"
                _write(archive, node["file"], leaf)
            elif is_value(leaf):
                node["value"] = [leaf.real, leaf.imag] if type(leaf) is complex else leaf
        header = json.dumps({"format": _FORMAT, "tree": tree}).encode()
        if len(header) > _LARGEST_HEADER:
            raise ValueError(
                f"`model` needs a description of {len(header)} bytes, and `fp.load` reads at most {_LARGEST_HEADER}: "
                "combine numbers into arrays"
            )
        archive.writestr(zipfile.ZipInfo(_HEADER), header)


@checked
def load(path: str | os.PathLike[str], like: Model) -> Model:
    """Read a model that [`flowprop.save`][] wrote.

    `load` never runs code from the file. It takes no more memory than `like` needs, and 16 MiB for the description.

    **Arguments:**

    - `path`: the path of the file.
    - `like`: a model of the same structure, made by the same code. Its arrays and numbers are replaced by those of the
      file; everything else is kept. It may be made by `equinox.filter_eval_shape`, which makes no arrays.

    **Returns:** `like` with the values of the file.

    **Raises:** `FileNotFoundError` if there is no such file. `ValueError` if the model in the file differs from `like`;
    the message lists where they differ: classes, static fields, functions, shapes and types of arrays. `ValueError`
    also if `path` is not a regular file, or if the file is damaged, was not written by `save`, or is from a version
    with another format.

    If you move a class of your own to another module, its name changes. To read old files, give it the old name:
    `Net.__module__ = "old_module"`.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax


    def make():
        network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
        return fp.fm_flow(network, shape=(2,))


    fp.save("flow.fp", make())
    flow = fp.load("flow.fp", eqx.filter_eval_shape(make))
    print(flow.shape)  # (2,)
    ```
    """
    path = Path(path)
    check_regular(path)
    parts, structure = jax.tree.flatten(like)
    wanted = describe(like)
    with open(path, "rb") as file:
        try:
            values = _values(path, file, wanted, parts)
        except (_Mismatch, MemoryError):
            raise
        except Exception as error:  # a damaged file may raise any error: a password is missing, the JSON is a number
            raise ValueError(f"`path` {path} is damaged or not a file of `fp.save`: {error}") from error
    return jax.tree.unflatten(structure, values)


class _Mismatch(ValueError):
    """An error for an undamaged file that holds another model or format than the one that was asked for."""


def _values(path: Path, file: IO[bytes], wanted: Node, parts: list[Any]) -> list[Any]:
    with zipfile.ZipFile(file) as archive:
        header = json.loads(_entry(archive, _HEADER, _LARGEST_HEADER).read())
        if header["format"] != _FORMAT:
            raise _Mismatch(
                f"`path` {path} has format {header['format']!r} where this version reads {_FORMAT!r}: "
                "read it with the version of flowprop that wrote it, or a newer one"
            )
        _compare(path, header["tree"], wanted)
        return [_read(archive, node, leaf) for node, leaf in zip(leaves(header["tree"], wanted), parts, strict=True)]


def _compare(path: Path, tree: Node, wanted: Node) -> None:
    found = list(differences(tree, wanted))
    if found:
        shown = [f"  {line}" for line in found[:_MOST_DIFFERENCES]]
        rest = [f"  and {len(found) - len(shown)} more"] if len(found) > len(shown) else []
        raise _Mismatch(
            "\n".join(
                [f"`like` is not the model in {path}: make `like` with the same code as the saved model", *shown, *rest]
            )
        )


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a leaf in a file: the npy format has neither keys nor bfloat16."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    dtype = np.dtype(leaf.dtype)
    return leaf.shape, np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def _write(archive: zipfile.ZipFile, name: str, leaf: Any) -> None:
    values = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C").view(_plain(leaf)[1])
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


def _read(archive: zipfile.ZipFile, node: Node, leaf: Any) -> Any:
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
    with _entry(archive, name, _LARGEST_ARRAY_HEADER + math.prod(shape) * dtype.itemsize) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"its entry {name} is not an npy array of version 1.0")
        found = np.lib.format.read_array_header_1_0(stream)
        if found != (shape, False, dtype):
            raise ValueError(f"its entry {name} holds {found[2]}{list(found[0])}, which differs from its header")
        array = np.empty(shape, dtype)
        _fill(array, stream, name)
    if _is_key(leaf):
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
