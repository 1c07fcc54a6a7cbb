"""A model as plain data, and a model made from such data without a call of any of its classes.

Every value is a number, a text, a truth value or null, or a dict of one item, whose key says what it is:
`{"module": ["flowprop.CondOTPath", {}]}`. Arrays are given by type and shape alone.
"""

import dataclasses
import enum
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .allowed import Changed, Classes, find_function, find_scalar_type, function_name, scalar_type_name


#: How deep the parts of a model may be in each other.
_DEEPEST = 50
#: How many values there may be in the data of a model.
_MOST = 2**17
#: The largest size of one number or text of a NumPy array, in bytes.
_LARGEST_ITEM = 2**16
_DTYPE = re.compile(r"[<>]?[A-Za-z]\w*(\[\w+\])?")
_PLAIN = (type(None), bool, int, float, str)


class CannotRebuild(Exception):
    """What cannot be given as data, with its place."""


def encode(model: PyTree) -> Any:
    """A model as plain data. Raises `CannotRebuild` if a part of it is not of the libraries."""
    return _Encoder().encode(model, "", static=False, depth=0)


def decode(data: Any) -> PyTree:
    """The model of some data, with placeholders for its arrays.

    Raises `Changed` if the libraries do not have what the data name, and any error if the data are not those of
    `encode`.
    """
    return _Decoder().decode(data)


def check(model: PyTree) -> None:
    """Run the checks of this library's classes, which would run after their `__init__`."""
    if isinstance(model, dict | tuple | list):
        for part in model.values() if isinstance(model, dict) else model:
            check(part)
    if isinstance(model, eqx.Module):
        for part in vars(model).values():
            check(part)
        for cls in type(model).__mro__:
            if "__check_init__" in vars(cls) and cls.__module__.split(".")[0] == __name__.split(".")[0]:
                vars(cls)["__check_init__"](model)


class _Encoder:
    def __init__(self) -> None:
        self.modules, self.tuples, self.enums = Classes(eqx.Module), Classes(tuple), Classes(enum.Enum)
        self.count = 0

    def encode(self, value: Any, place: str, *, static: bool, depth: int) -> Any:
        """One value. `static` says that JAX does not look into it, so that the file does not hold its arrays."""

        def inner(item: Any, part: str, static: bool = static) -> Any:
            return self.encode(item, place + part, static=static, depth=depth + 1)

        def items(values: Any, static: bool = static) -> list[Any]:
            return [inner(item, f"[{index}]", static) for index, item in enumerate(values)]

        if depth > _DEEPEST:
            raise CannotRebuild(f"parts that are more than {_DEEPEST} deep at `{place}`")
        self.count += 1
        if self.count > _MOST:
            raise CannotRebuild(f"more than {_MOST} values")
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind in (tuple, list):
            return {kind.__name__: items(value)}
        if kind in (set, frozenset):
            return {kind.__name__: sorted(items(value, static=True), key=json.dumps)}
        if kind is dict:
            return {
                "dict": [[inner(key, f"[{key!r}]", True), inner(item, f"[{key!r}]")] for key, item in value.items()]
            }
        if kind is functools.partial:
            keywords = {key: inner(item, f".{key}", True) for key, item in value.keywords.items()}
            return {"partial": [inner(value.func, ".func", True), items(value.args, static=True), keywords]}
        if named := self.modules.name(kind):
            fields = {field.name: static or field.metadata.get("static", False) for field in dataclasses.fields(kind)}
            if vars(value).keys() == fields.keys():
                return {"module": [named, {key: inner(vars(value)[key], f".{key}", fields[key]) for key in fields}]}
        elif hasattr(kind, "_fields") and (named := self.tuples.name(kind)):
            return {"named": [named, {key: inner(getattr(value, key), f".{key}") for key in kind._fields}]}
        elif named := self.enums.name(kind):
            return {"enum": [named, value.name]}
        elif (leaf := _encode_leaf(value, static)) is not None:
            return leaf
        raise CannotRebuild(f"{_described(value, static)}{f' at `{place}`' if place else ''}")


def _encode_leaf(value: Any, static: bool) -> Any:
    """An array, a type or a function; `None` for anything else."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if static:
            plain = isinstance(value, np.generic) and value.dtype.kind in "biuf" and type(value.item()) in _PLAIN
            return {"number": [value.dtype.name, value.item()]} if plain else None
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            return {"key": [str(jax.random.key_impl(value)), list(value.shape)]}
        kind = "array" if isinstance(value, jax.Array) else "numpy" if isinstance(value, np.ndarray) else "scalar"
        named = _dtype_name(value.dtype)
        return None if named is None else {kind: [named, list(value.shape)]}
    if isinstance(value, np.dtype):
        kind, named = "dtype", _dtype_name(value)
    elif isinstance(value, type) and issubclass(value, np.generic):
        kind, named = "numpy type", _dtype_name(np.dtype(value))
    elif isinstance(value, type(jax.numpy.float32)):
        kind, named = "type", scalar_type_name(value)
    else:
        kind, named = "function", function_name(value)
    return None if named is None else {kind: named}


def _described(value: Any, static: bool) -> str:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return "an array in a static field" if static else f"an array of {value.dtype}"
    kind = type(value)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"`{value.__module__}.{value.__qualname__}`"
    return f"an object of class `{kind.__module__}.{kind.__qualname__}`"


class _Decoder:
    def __init__(self) -> None:
        self.modules, self.tuples, self.enums = Classes(eqx.Module), Classes(tuple), Classes(enum.Enum)
        self.depth = self.count = 0
        self.kinds: dict[str, Callable[..., Any]] = {
            "complex": lambda content: complex(*content),
            "bytes": bytes.fromhex,
            "tuple": lambda content: tuple(self.items(content)),
            "list": self.items,
            "set": lambda content: set(self.items(content)),
            "frozenset": lambda content: frozenset(self.items(content)),
            "dict": lambda content: dict(self.items(pair) for pair in content),
            "partial": lambda content: self.partial(*content),
            "module": lambda content: self.module(*content),
            "named": lambda content: self.named(*content),
            "enum": lambda content: self.enums.find(content[0])._member_map_[content[1]],  # type: ignore[attr-defined]
            "number": lambda content: _dtype(content[0]).type(content[1]),
            "array": lambda content: jax.ShapeDtypeStruct(_shape(content[1]), _dtype(content[0])),
            # All of its elements are one number in memory.
            "numpy": lambda content: np.broadcast_to(np.zeros((), _dtype(content[0])), _shape(content[1])),
            "scalar": lambda content: np.zeros((), _dtype(content[0]))[()],
            "key": lambda content: jax.eval_shape(lambda: _keys(*content)),
            "dtype": _dtype,
            "numpy type": lambda content: _dtype(content).type,
            "type": find_scalar_type,
            "function": find_function,
        }

    def decode(self, data: Any) -> Any:
        self.count += 1
        if self.count > _MOST:
            raise ValueError(f"its header describes more than {_MOST} values")
        if type(data) in _PLAIN:
            return data
        if self.depth > _DEEPEST:
            raise ValueError(f"its parts are more than {_DEEPEST} deep")
        self.depth += 1
        [(kind, content)] = data.items()
        value = self.kinds[kind](content)
        self.depth -= 1
        return value

    def items(self, content: list[Any]) -> list[Any]:
        return [self.decode(item) for item in content]

    def fields(self, named: str, content: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The values of a class's fields, which have to be those of the file."""
        if content.keys() != set(names):
            lacks = [f"without its field `{key}`" for key in names if key not in content]
            extra = [f"with the field `{key}`" for key in content if key not in names]
            raise Changed(f"the class `{named}` {' and '.join([*lacks, *extra])}")
        return {key: self.decode(content[key]) for key in names}

    def module(self, named: str, content: dict[str, Any]) -> eqx.Module:
        cls = self.modules.find(named)
        module: eqx.Module = object.__new__(cls)
        for key, value in self.fields(named, content, [field.name for field in dataclasses.fields(cls)]).items():
            object.__setattr__(module, key, value)
        return module

    def named(self, named: str, content: dict[str, Any]) -> tuple[Any, ...]:
        cls: Any = self.tuples.find(named)
        return tuple.__new__(cls, self.fields(named, content, list(cls._fields)).values())

    def partial(self, function: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        function = self.decode(function)
        return functools.partial(
            function, *self.items(arguments), **{key: self.decode(item) for key, item in keywords.items()}
        )


def _dtype_name(dtype: np.dtype) -> str | None:
    """The name of a dtype from which NumPy makes the same one."""
    try:
        return str(dtype) if _dtype(str(dtype)) == dtype else None
    except (ValueError, TypeError):
        return None


def _dtype(text: str) -> np.dtype:
    if not _DTYPE.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of a dtype")
    dtype = np.dtype(text)
    if dtype.hasobject or dtype.type is np.void or dtype.itemsize > _LARGEST_ITEM:
        raise ValueError(f"{dtype} is a dtype that `fp.save` does not write")
    return dtype


def _shape(sizes: list[Any]) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{sizes} is not a shape")
    return tuple(sizes)


def _keys(implementation: str, shape: list[Any]) -> jax.Array:
    """Keys to be traced, so that they take no memory."""
    return jax.numpy.broadcast_to(jax.random.key(0, impl=implementation), _shape(shape))
