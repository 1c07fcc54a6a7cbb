"""Optimisers made by equal calls are equal, so that trainings alike share their compiled steps."""

import functools
import types
from typing import Any

import numpy as np
import optax


class Alike:
    """An optimiser that equals all others that were made alike, such as those of two calls of `optax.adam(1e-3)`.

    Each call makes new functions, which Python tells apart. But functions of Optax with the same code do the same if
    their closures and defaults hold equal values. Functions of other modules, which may depend on variables that have
    changed, are equal only to themselves; so are arrays.

    **Arguments:**

    - `optimiser`: the optimiser.
    """

    def __init__(self, optimiser: optax.GradientTransformation) -> None:
        self.optimiser = optimiser
        self._identity = _identity(optimiser, {})

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self._identity == other._identity


class _Itself:
    """A value that is equal only to itself. It is kept, so that no other value gets its address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def _identity(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """A hashable value, equal for values that do the same."""
    if value is None or isinstance(value, bool | int | str | bytes | complex | type | types.CodeType):
        return type(value), value
    if isinstance(value, float):
        return float, value.hex()  # tells 0.0 from -0.0, and NaN equals itself
    if isinstance(value, np.dtype):
        return value
    if id(value) in seen:
        return "seen", seen[id(value)][0]
    if not isinstance(value, tuple | list | dict | types.FunctionType | functools.partial):
        return _Itself(value)
    seen[id(value)] = len(seen), value  # kept, so that no other value gets its address
    if isinstance(value, tuple | list):
        return type(value), *(_identity(item, seen) for item in value)
    if isinstance(value, dict):
        return dict, *((_identity(key, seen), _identity(item, seen)) for key, item in value.items())
    if isinstance(value, functools.partial):
        return functools.partial, *(_identity(part, seen) for part in (value.func, value.args, value.keywords))
    if not str(value.__module__).startswith("optax."):
        return _Itself(value)
    cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
    parts = (value.__code__, value.__defaults__, value.__kwdefaults__, cells)
    return value.__module__, *(_identity(part, seen) for part in parts)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
