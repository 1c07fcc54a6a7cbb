"""Models on disk: a zip of plain arrays and one line of JSON, read without pickle."""

import io
import json
import os
import uuid
import zipfile
from pathlib import Path
from typing import IO, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._types import checked


Model = TypeVar("Model")

_FORMAT = "flowprop-1"
_HEADER = "header.json"
_NUMBERS = bool | int | float


@checked
def save(path: str | os.PathLike[str], model: PyTree) -> None:
    """Write a model's arrays and numbers to a file.

    The file is a zip of `.npy` arrays, one for each leaf, and a JSON header with their names,
    shapes and types. It appears whole or not at all.

    **Arguments:**

    - `path`: of the file, in a folder that exists. A file that is there is replaced.
    - `model`: any PyTree of arrays, Python numbers and functions; functions are not written.

    **Raises:** `OSError` if the file cannot be written; nothing is left behind then.
    """
    path = Path(path)
    entries: dict[str, Any] = {}
    # Not `tempfile`, whose files only their owner may read.
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "xb") as file, zipfile.ZipFile(file, "w") as archive:
            for index, (name, leaf) in enumerate(_leaves(model).items()):
                entries[name] = _describe(leaf)
                if isinstance(leaf, _NUMBERS):
                    entries[name]["value"] = leaf
                else:
                    entries[name]["file"] = f"{index}.npy"
                    buffer = io.BytesIO()
                    np.save(buffer, _plain(leaf), allow_pickle=False)
                    archive.writestr(f"{index}.npy", buffer.getvalue())
            archive.writestr(_HEADER, json.dumps({"format": _FORMAT, "leaves": entries}))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@checked
def load(path: str | os.PathLike[str], like: Model) -> Model:
    """Read a model that `save` wrote.

    **Arguments:**

    - `path`: of the file.
    - `like`: a model of the same structure, made by the same code; its arrays and numbers are
      replaced, the rest (functions, shapes) is kept.

    **Returns:** `like` with the file's values.

    **Raises:** `FileNotFoundError` if there is no such file; `ValueError`, naming the leaf, if the file
    is not one of `save`'s, is damaged, or holds a model of another structure.
    """
    path = Path(path)
    wanted = _leaves(like)
    with open(path, "rb") as file:
        try:
            values = _values(path, file, wanted)
        except _Mismatch:
            raise
        except Exception as error:  # a flipped bit may raise anything: a zip asks for a password, a JSON is a number
            raise ValueError(f"`path` {path} is damaged or no file of `fp.save`: {error}") from error
    structure = jax.tree.structure(eqx.filter(like, _is_value))
    return eqx.combine(jax.tree.unflatten(structure, values), like)


class _Mismatch(ValueError):
    """A file in order, but not the one that was asked for."""


def _values(path: Path, file: IO[bytes], wanted: dict[str, Any]) -> list[Any]:
    with zipfile.ZipFile(file) as archive:
        header = json.loads(archive.read(_HEADER))
        if header["format"] != _FORMAT:
            raise _Mismatch(
                f"`path` {path} has format {header['format']!r} where this version reads {_FORMAT!r}: "
                "read it by the version of flowprop that wrote it, or a newer one"
            )
        entries = header["leaves"]
        _compare(path, entries, wanted)
        return [_read(archive, entries[name], leaf) for name, leaf in wanted.items()]


def _is_value(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | _NUMBERS)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(model: PyTree) -> dict[str, Any]:
    """The values of a model by their places in it."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(place): leaf for place, leaf in leaves if _is_value(leaf)}


def _describe(leaf: Any) -> dict[str, Any]:
    """What must agree between the file and the model that is read into."""
    if isinstance(leaf, _NUMBERS):
        return {"type": type(leaf).__name__}
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _plain(leaf: Any) -> np.ndarray:
    """An array of a type that the npy format knows; it knows neither keys nor bfloat16."""
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _compare(path: Path, entries: dict[str, Any], wanted: dict[str, Any]) -> None:
    remedy = "make `like` as the saved model was made"
    for name in [*entries, *wanted]:
        if name not in wanted or name not in entries:
            where = "`like`" if name in entries else f"the file {path}"
            raise _Mismatch(f"{where} has no leaf {name!r}: {remedy}")
        have, want = entries[name], _describe(wanted[name])
        if any(have.get(what) != want[what] for what in want):
            have = {what: have[what] for what in have if what not in ("file", "value")}
            raise _Mismatch(f"`like` has {want} at {name!r} where the file {path} has {have}: {remedy}")


def _read(archive: zipfile.ZipFile, entry: dict[str, Any], leaf: Any) -> Any:
    if "value" in entry:
        return type(leaf)(entry["value"])
    array = np.load(io.BytesIO(archive.read(entry["file"])), allow_pickle=False)
    plain = _plain(leaf)
    if (array.shape, array.dtype) != (plain.shape, plain.dtype):
        raise ValueError(f"{entry['file']} holds {array.dtype}{list(array.shape)} where its header says otherwise")
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    array = array.view(leaf.dtype)
    if isinstance(leaf, np.generic):
        return array[()]
    return jnp.asarray(array) if isinstance(leaf, jax.Array) else array
