"""The classes and functions that a file may name.

Nothing is imported or called to find one: it has to exist already, in a library that flowprop is built on.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from .structure import name


_LIBRARIES = ("flowprop", "equinox", "jax", "optax", "diffrax", "optimistix", "lineax")
#: Modules of mathematical functions. Not `flowprop` and `equinox` themselves, which have functions that write files.
_FUNCTIONS = (
    *("jax.nn", "jax.numpy", "jax.numpy.fft", "jax.numpy.linalg", "jax.lax", "jax.scipy.special"),
    *("flowprop.nn", "equinox.nn", "optimistix"),
)
#: Private modules of functions that networks hold, such as `flowprop.nn._activation`.
_PRIVATE = ("flowprop.nn._", "equinox.nn._")
_READS_FILES = "jax.numpy.load"
_ScalarType = type(jnp.float32)


class Changed(Exception):
    """What a file holds and the installed libraries do not have, or a file may not name."""


class Classes:
    """The classes of the libraries that derive from a base class, by name."""

    def __init__(self, base: type) -> None:
        classes = [cls for cls in set(_derived(base)) if _is_ours(cls)]
        counts = Counter(map(name, classes))
        # The public name, which stays when a private module moves, or the whole path if two classes share that name.
        self._names = {
            cls: name(cls) if counts[name(cls)] == 1 else f"{cls.__module__}.{cls.__qualname__}" for cls in classes
        }
        self._classes = {given: cls for cls, given in self._names.items()}

    def name(self, cls: type) -> str | None:
        """The name of a class in a file, or `None` if a file may not name it."""
        return self._names.get(cls)

    def find(self, given: str) -> type:
        """The class of a name."""
        if given not in self._classes:
            raise Changed(f"the class `{given}`")
        return self._classes[given]


def function_name(function: Any) -> str | None:
    """The name of a function in a file, or `None` if a file may not name it."""
    own = getattr(function, "__name__", None)
    names = (f"{module}.{own}" for module in (*_FUNCTIONS, getattr(function, "__module__", None)))
    return next((given for given in names if _function(given) is function), None)


def find_function(given: str) -> Any:
    """The function of a name."""
    function = _function(given)
    if function is None:
        raise Changed(f"the function `{given}`")
    return function


def scalar_type_name(value: Any) -> str | None:
    """The name of a type such as `jax.numpy.float32`, or `None` for anything else."""
    return value.dtype.name if isinstance(value, _ScalarType) and _scalar_type(value.dtype.name) is value else None


def find_scalar_type(given: str) -> Any:
    """The type of a name such as `float32`."""
    found = _scalar_type(given)
    if found is None:
        raise Changed(f"the type `{given}`")
    return found


def _function(given: str) -> Any:
    module, _, own = given.rpartition(".")
    if given == _READS_FILES or not (module in _FUNCTIONS or module.startswith(_PRIVATE)):
        return None
    function = vars(sys.modules.get(module, object)).get(own)
    # A module also holds functions of other libraries: `jax.numpy.save` is NumPy's.
    home = str(getattr(function, "__module__", None)).split(".")[0]
    return function if callable(function) and not isinstance(function, type) and home == given.split(".")[0] else None


def _scalar_type(given: str) -> Any:
    found = vars(jnp).get(given)
    return found if isinstance(found, _ScalarType) else None


def _derived(base: type) -> Iterator[type]:
    cls: type
    for cls in type.__subclasses__(base):
        yield cls
        yield from _derived(cls)


def _is_ours(cls: type) -> bool:
    """Whether a class belongs to one of the libraries, and stands at the top of its module."""
    module = sys.modules.get(cls.__module__, object)
    return cls.__module__.split(".")[0] in _LIBRARIES and vars(module).get(cls.__qualname__) is cls
