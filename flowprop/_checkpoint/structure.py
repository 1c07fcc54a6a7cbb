"""A description of a model's structure as text, to compare two models."""

import dataclasses
import enum
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree


#: One node of a model. `is` says what it is, `static` holds its static fields, `parts` what it contains. A leaf has
#: no `parts`.
Node = dict[str, Any]

NUMBERS: dict[type, str] = {bool: "a bool", int: "an int", float: "a float", complex: "a complex number"}
_ARRAYS = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)
#: The address in the default `repr` of an object: it differs from run to run.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6}")


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or a placeholder for one."""
    return isinstance(leaf, _ARRAYS)


def is_value(leaf: Any) -> bool:
    """Whether a leaf is loaded from a file. All other leaves are compared."""
    return is_array(leaf) or type(leaf) in NUMBERS


def describe(model: PyTree, place: str = "") -> Node:
    """The description of all nodes of a model."""
    structure: Any
    children, structure = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: node is not model)
    # The class of the node, and what the class stores beside the children; `None` for a leaf.
    kind = structure.node_data()
    if kind is None:
        return {"is": _leaf(model, place)}
    node: Node = {"is": "None" if model is None else name(kind[0])}
    static = _static(model, kind[1])
    if static:
        node["static"] = static
    node["parts"] = {}
    for key, child in children:
        part = jax.tree_util.keystr(key)
        if part in node["parts"]:
            raise ValueError(f"`model` has two parts with the name {part!r} at {_shown(place)}: give each its own name")
        node["parts"][part] = describe(child, place + part)
    return node


def leaves(node: Node, like: Node) -> Iterator[Node]:
    """The leaves of `node`, in the order of those of `like`. The two must not differ."""
    if "parts" not in like:
        yield node
    for part, child in like.get("parts", {}).items():
        yield from leaves(node["parts"][part], child)


def differences(file: Node, like: Node, place: str = "") -> Iterator[str]:
    """A sentence for each place at which two models differ. Places below such a place are left out."""
    if not _same(file["is"], like["is"]):
        yield _differ(place, file["is"], like["is"])
        return
    for field, have, want in _pairs(file.get("static", {}), like.get("static", {})):
        if have is None or want is None:
            yield _missing(f"{place}.{field}", have)
        elif not _same(have, want):
            yield _differ(f"{place}.{field}", have, want)
    for part, have, want in _pairs(file.get("parts", {}), like.get("parts", {})):
        if have is None or want is None:
            yield _missing(place + part, have)
        else:
            yield from differences(have, want, place + part)


def name(thing: Any) -> str:
    """The public name of a class or function.

    The name of a module ends before its first private part: `flowprop._flow.Flow` becomes `flowprop.Flow`. So a library
    that moves its private modules can still read its old files. A decorated function has the name of the function that
    it wraps: `jax.nn.silu`, a jitted function, needs this.
    """
    thing = thing if isinstance(thing, type) else inspect.unwrap(thing)
    module = (getattr(thing, "__module__", None) or "").split(".")
    hidden = (i for i, part in enumerate(module) if part.startswith("_") and not part.startswith("__"))
    own = getattr(thing, "__qualname__", None) or thing.__name__
    return ".".join(part for part in (*module[: next(hidden, None)], own) if part not in ("", "builtins"))


def _pairs(file: dict[str, Any], like: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in [*like, *(key for key in file if key not in like)]:
        yield key, file.get(key), like.get(key)


def _missing(place: str, file: Any) -> str:
    return f"{_shown(place)} is missing in {'the file' if file is None else '`like`'}"


def _differ(place: str, file: str, like: str) -> str:
    short = [text if len(text) <= 120 else f"{text[:110]}..." for text in (like, file)]
    return f"{_shown(place)} is {short[0]} in `like` and {short[1]} in the file"


def _shown(place: str) -> str:
    return f"`{place}`" if place else "the model itself"


def _same(a: str, b: str) -> bool:
    """Whether two texts agree. A script that runs as `__main__` is the same module under another name."""
    return a == b or any(
        one.startswith("__main__.") and f".{other}".endswith(one.removeprefix("__main__"))
        for one, other in ((a, b), (b, a))
    )


def _leaf(leaf: Any, place: str) -> str:
    if is_array(leaf):
        if isinstance(leaf.dtype, np.dtype) and (leaf.dtype.hasobject or leaf.dtype.type is np.void):
            raise TypeError(
                f"`model` holds an array of {leaf.dtype} at {_shown(place)}: give an array of numbers or text"
            )
        return f"{leaf.dtype}{list(leaf.shape)}"
    if type(leaf) in NUMBERS:
        return NUMBERS[type(leaf)]
    text = _text(leaf)
    if text is None:
        raise TypeError(
            f"`model` holds an object of class {name(type(leaf))} at {_shown(place)}, which a file cannot describe: "
            "make it a PyTree, or give its class a `__repr__` that shows no address"
        )
    return text


def _static(node: Any, data: Any) -> dict[str, str]:
    """The static fields of a node, or everything that its class stores beside its children."""
    if isinstance(node, eqx.Module):
        fields = [field.name for field in dataclasses.fields(node) if field.metadata.get("static", False)]
        return {field: _setting(vars(node)[field]) for field in fields if field in vars(node)}
    if data is None or isinstance(node, dict | tuple | list):
        return {}
    return {"<static>": _setting(data)}


def _setting(value: Any) -> str:
    """A static value as text. An object without a usable `repr` is described by its class only."""
    text = _text(value)
    return name(type(value)) if text is None else text


def _text(value: Any) -> str | None:
    """A value as text that is the same in every run, or `None` for an object whose `repr` shows its address."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufcUS":
        return _text(value.item())
    # 8 and 8.0 are the same setting.
    if isinstance(value, float) and type(value) is float and value.is_integer():
        return repr(int(value))
    if isinstance(value, enum.Enum):
        return f"{name(type(value))}.{value.name}"
    if type(value) in (*NUMBERS, str, bytes, types.NoneType, types.EllipsisType):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray) and not value.dtype.hasobject:
        digest = hashlib.sha256(np.asarray(value).tobytes()).hexdigest()[:16]
        return f"{value.dtype}{list(value.shape)} of digest {digest}"
    if isinstance(value, functools.partial):
        settings = [*map(_setting, value.args), *(f"{key}={_setting(item)}" for key, item in value.keywords.items())]
        return f"functools.partial({', '.join([_setting(value.func), *settings])})"
    if isinstance(value, tuple | list | set | frozenset):
        items = [_setting(item) for item in value]
        text = ", ".join(sorted(items) if isinstance(value, set | frozenset) else items)
        if type(value) is tuple:
            return f"({text},)" if len(items) == 1 else f"({text})"
        return f"[{text}]" if type(value) is list else f"{name(type(value))}({text})"
    if isinstance(value, dict):
        return f"{name(type(value))}({', '.join(f'{_setting(key)}: {_setting(item)}' for key, item in value.items())})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
        return f"{name(type(value))}({', '.join(f'{key}={_setting(item)}' for key, item in fields)})"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
        return name(value)
    text = repr(value)
    return None if _ADDRESS.search(text) else f"{name(type(value))} {text}"
