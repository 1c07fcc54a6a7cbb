"""Conversion of a caller's data to arrays that share their first axis, the axis of examples."""

import mmap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._checked import described, is_key


#: NumPy's code for a kind of values that no loss can take -> the remedy.
REMEDIES = {
    "O": "convert it, `.astype(float)`",
    "U": "give numbers; class names become labels by `numpy.unique(names, return_inverse=True)[1]`",
    "S": "give numbers; class names become labels by `numpy.unique(names, return_inverse=True)[1]`",
    "T": "give numbers; class names become labels by `numpy.unique(names, return_inverse=True)[1]`",
    "M": "give numbers, such as the seconds since a first date",
    "m": "give numbers, such as seconds",
    "c": "give its real and imaginary parts as two real arrays",
    "V": "give its columns as an array of numbers",
}


def collect(data: Any, name: str = "data") -> tuple[PyTree, ...]:
    """A caller's data as a tuple with one entry for each argument of a loss.

    **Arguments:**

    - `data`: an array, or a tuple or list whose entries are arrays or PyTrees of arrays. An array is a NumPy or JAX
      array, or an object that converts to one: a data frame of numbers, a tensor on the CPU.
    - `name`: how messages name the data.

    **Returns:** PyTrees of NumPy or JAX arrays. Arrays that need no conversion are not copied.

    **Raises:** `TypeError` or `ValueError`; the message names the entry.
    """
    if not isinstance(data, list | tuple):
        if not is_array(data):
            raise TypeError(
                f"`{name}` is {described(data)}: give an array, or a tuple with one entry for each argument of `loss`"
            )
        data = (data,)
    if not data:
        raise ValueError(f"`{name}` is empty: give an array, or a tuple with one entry for each argument of `loss`")
    if isinstance(data, list):
        _refuse_numbers(name, data)
    entries = tuple(_entry(f"{name}[{i}]", entry) for i, entry in enumerate(data))
    (first, array), *others = named_arrays(entries, name)
    for label, other in others:
        if other.shape[0] != array.shape[0]:
            raise ValueError(
                f"`{label}` has {other.shape[0]} examples where `{first}` has {array.shape[0]}: "
                "all arrays must have the same size along their first axis, the axis of examples"
            )
    return entries


def named_arrays(entries: tuple[PyTree, ...], name: str = "data") -> list[tuple[str, Array | np.ndarray]]:
    """The arrays of collected data, each with its name: `data[1]['age']`."""
    return [
        (f"{name}{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(entries)
    ]


def check_finite(entries: tuple[PyTree, ...], name: str = "data") -> None:
    """Raise a `ValueError` that names the first row with NaN or infinity, in the type to which JAX converts it."""
    for label, array in named_arrays(entries, name):
        if is_key(array) or not jnp.issubdtype(array.dtype, jnp.floating):
            continue
        rows = np.flatnonzero(~finite_rows(array))
        if rows.size:
            row = np.asarray(array[int(rows[0])], np.float64)
            dtype = jax.dtypes.canonicalize_dtype(array.dtype)
            what = f"a number too large for {dtype}"
            what = "infinity" if np.any(np.isinf(row)) else what
            what = "NaN" if np.any(np.isnan(row)) else what
            raise ValueError(
                f"`{label}` has {what} in row {rows[0]}{_and_more(rows)}: remove such rows, or fill in their values"
            )


def finite_rows(array: Array | np.ndarray) -> Bool[np.ndarray, " examples"]:
    """Which rows are finite in the type that JAX uses. NumPy arrays are read in pieces of a few MB."""
    if isinstance(array, jax.Array):
        return np.asarray(_finite_rows(array))
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    found = np.ones(len(array), bool)
    step = max(1, 2**20 * len(array) // max(array.size, 1))
    with np.errstate(over="ignore"):
        for start in range(0, len(array), step):
            finite = np.isfinite(array[start : start + step].astype(dtype, copy=False))
            if not finite.all():
                found[start : start + step] = finite.reshape(len(finite), -1).all(axis=1)
            release(array)
    return found


@jax.jit
def _finite_rows(array: Array) -> Array:
    return jnp.isfinite(array).reshape(array.shape[0], -1).all(axis=1)


def example_weights(weights: Any, num_examples: int) -> Float[np.ndarray, " examples"]:
    """The weights of the examples, divided by their mean."""
    if not is_array(weights):
        raise TypeError(f"`weights` is {described(weights)}: give an array, one number for each example")
    array = _array("weights", weights)
    if array.shape != (num_examples,):
        raise ValueError(
            f"`weights` has shape {tuple(array.shape)} where ({num_examples},) is needed: "
            "give one number for each example of `data`"
        )
    values = np.asarray(array, np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"`weights` has {values[bad[0]]} in row {bad[0]}: give finite numbers")
    if not values.sum() > 0:
        raise ValueError(f"`weights` has the sum {values.sum():g}: give weights with a positive sum")
    return values / values.mean()


def to_device(tree: PyTree) -> PyTree:
    """`tree` with its arrays on JAX's device. NumPy arrays are copied at most once."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf), tree)


def release(data: PyTree) -> None:
    """Give the pages of memory-mapped files back, which otherwise count as the memory of this process."""
    for leaf in jax.tree.leaves(data):
        # In other modes than read-only, pages may hold changes that are in no file.
        if isinstance(leaf, np.memmap) and leaf.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
            base: Any = leaf
            while base is not None and not isinstance(base, mmap.mmap):
                base = getattr(base, "base", None)
            if base is not None:
                base.madvise(mmap.MADV_DONTNEED)


def is_array(value: Any) -> bool:
    """Whether a value is an array, or converts to one."""
    if isinstance(value, type):
        return False
    return callable(getattr(value, "to_numpy", None)) or callable(getattr(value, "__array__", None))


def _refuse_numbers(name: str, node: Any) -> None:
    """Raise a `TypeError` if lists hold numbers. Only the first item of each list is read, since lists may be long."""
    first = node
    while isinstance(first, list | tuple) and first:
        first = first[0]
        if isinstance(first, bool | int | float | complex | str | bytes | np.generic):
            raise TypeError(f"`{name}` is {described(node)}, not an array: convert it, `numpy.asarray({name})`")


def _entry(name: str, entry: Any) -> PyTree:
    nodes = {name: entry}
    if isinstance(entry, dict):
        nodes = {f"{name}[{key!r}]": value for key, value in entry.items()}
    for label, node in nodes.items():
        _refuse_numbers(label, node)
    leaves, structure = jax.tree_util.tree_flatten_with_path(entry, is_leaf=is_array)
    if not leaves:
        raise TypeError(f"`{name}` is {described(entry)}, which has no arrays: leave it out")
    arrays = [_array(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return jax.tree.unflatten(structure, arrays)


def _array(name: str, leaf: Any) -> Array | np.ndarray:
    """A leaf as an array of numbers in native byte order."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array: fill it, `.filled(value)`, or remove the masked rows")
    if not is_array(leaf):
        raise TypeError(f"`{name}` is {described(leaf)}: give a NumPy or JAX array")
    array = leaf
    if not isinstance(leaf, jax.Array):
        # A memory-mapped file stays one.
        array = leaf if isinstance(leaf, np.memmap) else np.asarray(_converted(name, leaf))
    if not is_key(array):
        array = _numbers(name, array)
    if array.ndim == 0:
        raise ValueError(f"`{name}` is a single number: give an array whose first axis is the axis of examples")
    if array.shape[0] == 0:
        raise ValueError(f"`{name}` has shape {tuple(array.shape)}: it has no examples")
    return array


def _converted(name: str, leaf: Any) -> Any:
    """An object of another library as an array. The columns of a data frame are checked by name."""
    if not callable(getattr(leaf, "to_numpy", None)):
        return leaf
    if getattr(leaf, "ndim", 2) != 2 or not hasattr(leaf, "columns"):
        return leaf.to_numpy()
    columns = []
    for column in leaf.columns:
        values = _numbers(f"{name}[{column!r}]", np.asarray(leaf[column].to_numpy()))
        rows = np.flatnonzero(~np.isfinite(values)) if np.issubdtype(values.dtype, np.floating) else np.zeros(0)
        if rows.size:
            raise ValueError(
                f"`{name}[{column!r}]` has {values[rows[0]]} in row {rows[0]}{_and_more(rows)}: remove such rows, or "
                "fill in their values"
            )
        columns.append(values)
    return np.stack(columns, axis=1) if columns else leaf.to_numpy()


def _and_more(rows: np.ndarray) -> str:
    return f" (and {rows.size - 1} more)" if rows.size > 1 else ""


def _numbers(name: str, array: Array | np.ndarray) -> Array | np.ndarray:
    dtype = array.dtype
    # NumPy counts a duration, "m", as an integer.
    real = any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if dtype.kind == "m" or not real:
        raise TypeError(f"`{name}` has the type {dtype}: {REMEDIES.get(dtype.kind, 'give real numbers')}")
    if isinstance(array, np.ndarray) and not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    if isinstance(array, np.ndarray) and jnp.issubdtype(dtype, np.floating) and dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array
