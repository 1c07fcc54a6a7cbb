"""`save` writes a model to a file, and `load` reads it."""

import json
import os
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, overload

import jax

from .._types import checked
from .allowed import Changed
from .archive import Mismatch, is_key, num_bytes, read_header, read_leaf, reading, write_array, write_header
from .rebuild import CannotRebuild, check, decode, encode
from .replace import check_regular, replacing
from .structure import Node, describe, differences, is_array, is_value, leaves


Model = TypeVar("Model")

_MOST_DIFFERENCES = 8


@checked
def save(path: str | os.PathLike[str], model: Any, metadata: dict[str, Any] | None = None) -> None:
    """Write a model's arrays and numbers to a file, with a description of its structure.

    The file is a zip without compression. It holds one `.npy` entry for each array and a JSON header with the numbers
    (`bool`, `int`, `float`, `complex`) and a description of the model's structure: the class of every node, its static
    fields, and every function. [`flowprop.load`][] compares this description with the model that you give it, or makes
    the model from the header if all parts are of flowprop and the libraries that it is built on.

    - Classes and functions are described by name, without the private parts of their modules: `flowprop.nn.MLP`,
      `jax.silu`. Two functions of the same name, such as two lambdas in the same function, cannot be distinguished.
    - A `functools.partial` is described with its arguments; an array in a static field by a digest; any other object by
      its `repr`, or by its class alone if the `repr` shows a memory address.
    - Other leaves, such as strings, are described and compared in the same way. They are not loaded into `like`.

    The file appears completely or not at all: `save` writes it beside `path` as `.NAME.HEX.part`, syncs it to disk, and
    renames it. If several processes save to one path, the last one wins. `save` also removes part files of the same
    name that have not been written to for ten minutes: they are left over from saves that were killed.

    **Arguments:**

    - `path`: the path of the file, in a folder that exists. An existing file is replaced, and the new file keeps its
      mode. If `path` is a link, `save` replaces the file that it points to.
    - `model`: any PyTree of arrays, Python numbers and functions.
    - `metadata`: notes to keep with the model, such as the names of columns. JSON has to be able to store them: text,
      numbers, truth values, `None`, lists, and dicts with text as keys. `load` ignores them, and
      [`flowprop.model_info`][] returns them.

    **Returns:** nothing.

    **Raises:** `OSError` if the file cannot be written; then no part of it is left. `ValueError` if `path` is a folder,
    a device, a pipe or a socket, or if the description is larger than 16 MiB. `TypeError` if a leaf has no values, or
    is neither an array nor a number and cannot be described, or if JSON cannot store `metadata`.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    fp.save("flow.fp", flow, metadata={"columns": ["height", "weight"]})
    print(fp.model_info("flow.fp").metadata["columns"])  # ['height', 'weight']
    ```
    """
    _check_metadata(metadata)
    tree = describe(model)
    versions = {library: version(library) for library in ("flowprop", "equinox", "jax")}
    header: dict[str, Any] = {"versions": versions, "metadata": metadata or {}, "tree": tree}
    try:
        header["rebuild"] = encode(model)
    except CannotRebuild as error:
        header["needs_like"] = str(error)
    with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        places = jax.tree_util.tree_leaves_with_path(model)
        for index, ((place, leaf), node) in enumerate(zip(places, leaves(tree, tree), strict=True)):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                where = jax.tree_util.keystr(place)
                raise TypeError(f"`model` holds a shape without values at `{where}`: give a model with arrays")
            if is_array(leaf):
                node["file"] = f"{index}.npy"
                write_array(archive, node["file"], leaf)
            elif is_value(leaf):
                node["value"] = [leaf.real, leaf.imag] if type(leaf) is complex else leaf
        write_header(archive, header)


@overload
def load(path: str | os.PathLike[str], like: None = None) -> Any: ...
@overload
def load(path: str | os.PathLike[str], like: Model) -> Model: ...
@checked
def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Read a model that [`flowprop.save`][] wrote.

    Without `like`, `load` makes the model from the file. It can do so if all parts of the model are of flowprop,
    Equinox, JAX, Diffrax or Optax: their classes, and mathematical functions such as `jax.nn.silu`. It does not call
    the constructors, and it never imports or runs anything that the file names. For a model with a class or a function
    of your own, give `like`.

    The arrays take no more memory than the file has bytes, or than `like` needs. The largest description that `load`
    reads takes about 0.25 GB.

    **Arguments:**

    - `path`: the path of the file.
    - `like`: a model of the same structure, made by the same code. Its arrays and numbers are replaced by those of the
      file; everything else is kept. It may be made by `equinox.filter_eval_shape`, which makes no arrays. If it is
      `None`, the model is made from the file.

    **Returns:** the model, or `like` with the values of the file.

    **Raises:** `FileNotFoundError` if there is no such file. `ValueError` if the model in the file differs from `like`;
    the message lists where they differ: classes, static fields, functions, shapes and types of arrays. `ValueError`
    without `like` if the model has a part that only `like` can give, if a class has other fields in this version than
    in the file, or if the file has numbers in double precision that JAX is not set to use. `ValueError` also if `path`
    is not a regular file, or if the file is damaged, was not written by `save`, or is from a version with another
    format.

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
    flow = fp.load("flow.fp")
    print(flow.shape)  # (2,)
    flow = fp.load("flow.fp", eqx.filter_eval_shape(make))
    print(flow.shape)  # (2,)
    ```
    """
    path = Path(path)
    check_regular(path)
    wanted = None if like is None else describe(like)
    with reading(path) as file, zipfile.ZipFile(file) as archive:
        header = read_header(path, archive)
        if wanted is not None:
            _compare(path, header["tree"], wanted)
            return _filled(archive, header["tree"], wanted, like)
        like = _rebuilt(path, header)
        _check_arrays(path, like)
        wanted = describe(like)
        if any(differences(header["tree"], wanted)):
            raise ValueError("its two descriptions of the model differ")
        model = _filled(archive, header["tree"], wanted, like)
        _check(path, model)
        return model


def _filled(archive: zipfile.ZipFile, tree: Node, wanted: Node, like: Model) -> Model:
    """`like` with the values of a file."""
    parts, structure = jax.tree.flatten(like)
    values = [read_leaf(archive, node, leaf) for node, leaf in zip(leaves(tree, wanted), parts, strict=True)]
    return jax.tree.unflatten(structure, values)


def _compare(path: Path, tree: Node, wanted: Node) -> None:
    found = list(differences(tree, wanted))
    if found:
        shown = [f"  {line}" for line in found[:_MOST_DIFFERENCES]]
        rest = [f"  and {len(found) - len(shown)} more"] if len(found) > len(shown) else []
        raise Mismatch(
            "\n".join(
                [f"`like` is not the model in {path}: make `like` with the same code as the saved model", *shown, *rest]
            )
        )


def _rebuilt(path: Path, header: dict[str, Any]) -> Any:
    """The model that a header describes, with placeholders for its arrays."""
    remedy = "give `like`, a model made by the same code"
    if "needs_like" in header:
        raise Mismatch(f"`path` {path} holds {header['needs_like']}, which `fp.load` cannot make from a file: {remedy}")
    if "rebuild" not in header:
        raise Mismatch(f"`path` {path} was written by a version that did not store how to make its model: {remedy}")
    try:
        return decode(header["rebuild"])
    except Changed as error:
        versions = ", ".join(f"{library} {number}" for library, number in header["versions"].items())
        raise Mismatch(
            f"`path` {path} holds {error}, which the installed libraries do not have or a file may not name: "
            f"load it with the versions that wrote it ({versions})"
        ) from None


def _check_arrays(path: Path, like: Any) -> None:
    """Raise an error if the arrays are larger than their file, or too precise for JAX's settings."""
    arrays = list(filter(is_array, jax.tree.leaves(like)))
    size, needed = path.stat().st_size, sum(map(num_bytes, arrays))
    if needed > size:
        raise ValueError(f"its header describes arrays of {needed} bytes, and the file has {size}")
    # Placeholders for arrays of JAX, not of NumPy.
    placeholders = [array for array in arrays if isinstance(array, jax.ShapeDtypeStruct) and not is_key(array)]
    for dtype in {array.dtype for array in placeholders}:
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise Mismatch(
                f"`path` {path} holds an array of {dtype}, which JAX would round: "
                'call `jax.config.update("jax_enable_x64", True)` first'
            )


def _check(path: Path, model: Any) -> None:
    try:
        check(model)
    except Exception as error:
        raise Mismatch(
            f"`path` {path} holds a model that its own class refuses, because {error}; "
            "give `like`, a model made by the same code, to load it without this check"
        ) from error


def _check_metadata(metadata: Any) -> None:
    try:
        json.dumps(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"`metadata` holds what JSON cannot store ({error}): give text, numbers, lists and dicts"
        ) from error
