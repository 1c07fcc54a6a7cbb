"""The decorator of every public entry point: it converts and checks arguments, with one-sentence errors."""

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray, PyTree, TypeCheckError, jaxtyped


Target = TypeVar("Target", bound=Callable[..., Any])

KEY_REMEDY = ": make it by `jax.random.key(seed)`"


def checked(target: Target) -> Target:
    """Convert and check the arguments of a public function, or of the constructor of a class.

    Where the annotation asks for Python numbers or tuples, NumPy and JAX scalars become Python numbers, and lists of
    sizes become tuples. An argument that does not fit its annotation raises a `TypeError` of one sentence with the name
    of the argument, what was given, what is needed and the remedy. Inside `jit` the check costs trace time only;
    outside, some 20 microseconds for each call. Each check is created at the first call: creating all of them at once
    would take most of the time of `import flowprop`.
    """
    if isinstance(target, type):
        target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target
    check: Callable[..., Any] | None = None
    convert: Callable[..., Any] | None = None

    @functools.wraps(target)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal check, convert
        from beartype.roar import BeartypeCallHintParamViolation

        if check is None or convert is None:
            from beartype import beartype

            # beartype's own messages are long, and jaxtyping's print every argument: `_complaint` replaces both.
            check = jaxtyped(typechecker=None)(beartype(target))
            convert = _conversion(target)
        args, kwargs = convert(args, kwargs)
        try:
            return check(*args, **kwargs)
        except (BeartypeCallHintParamViolation, TypeCheckError):
            complaint = _complaint(target, args, kwargs)
            if complaint is None:  # the error comes from a function that `target` calls
                raise
        raise TypeError(complaint)

    return wrapper  # type: ignore[return-value]


def is_key(value: Any) -> bool:
    """Whether a value is an array of typed keys."""
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _conversion(target: Callable[..., Any]) -> Callable[[tuple, dict], tuple[tuple, dict]]:
    """A function that converts the arguments of a call of `target` to the types of their annotations."""
    names: list[str] = []
    conversions: dict[str, Callable[[Any], Any]] = {}
    rest: Callable[[Any], Any] | None = None
    for name, parameter in inspect.signature(target).parameters.items():
        conversion = _converter(parameter.annotation)
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = conversion
            break
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
        if conversion is not None:
            conversions[name] = conversion
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and (conversion := _converter(parameter.annotation)) is not None:
            conversions[name] = conversion
    if not conversions and rest is None:
        return lambda args, kwargs: (args, kwargs)
    places = [conversions.get(name, rest if index >= len(names) else None) for index, name in enumerate(names)]

    def convert(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        by_place = [*places, *[rest] * (len(args) - len(places))]
        args = tuple(
            value if conversion is None else conversion(value)
            for value, conversion in zip(args, by_place, strict=False)
        )
        return args, {
            name: conversions[name](value) if name in conversions else value for name, value in kwargs.items()
        }

    return convert


def _converter(hint: Any) -> Callable[[Any], Any] | None:
    """The conversion of a value to the type of an annotation; `None` if there is nothing to convert."""
    options = _options(hint)
    if any(option is PyTree for option in options):
        return _native_leaves
    if tuple[int, ...] in options:
        return _sizes
    arrays = any(_is_array_hint(option) for option in options)
    if float in options and not arrays:
        return _real
    if int in options and float not in options and not arrays:
        return _whole
    if float in options:
        return _number
    return _native if arrays else None


def _options(hint: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(hint) for option in _options(member)]
    return [hint]


def _is_array_hint(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _concrete_scalar(value: Any) -> bool:
    if isinstance(value, np.generic):
        return True
    return isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and not isinstance(value, jax.core.Tracer)


def _whole(value: Any) -> Any:
    if _concrete_scalar(value) and jnp.issubdtype(value.dtype, jnp.integer):
        return operator.index(value.item())
    return value


def _real(value: Any) -> Any:
    if _concrete_scalar(value) and not is_key(value):
        if jnp.issubdtype(value.dtype, jnp.integer):
            return int(value)
        if jnp.issubdtype(value.dtype, jnp.floating):
            return float(value)
    return value


def _sizes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_whole(size) for size in value)
    value = _whole(value)
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _native(value: Any) -> Any:
    """An array in the byte order of this machine: JAX accepts no other."""
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


def _native_leaves(value: Any) -> Any:
    return value if value is None else jax.tree.map(_native, value)


def _number(value: Any) -> Any:
    """A NumPy scalar as a Python number; a JAX scalar is not changed."""
    return _native(value) if isinstance(value, jax.Array) else _native(_real(value))


def _complaint(target: Callable[..., Any], args: tuple, kwargs: dict) -> str | None:
    """One sentence about the first argument that does not fit its annotation; `None` if all fit."""
    from beartype.door import is_bearable

    signature = inspect.signature(target)
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    # The sizes that annotations share are bound in the order of the arguments, the same as in the call itself.
    with jaxtyped("context"):
        for name, value in arguments.items():
            parameter = signature.parameters[name]
            if parameter.annotation is parameter.empty:
                continue
            values = value if parameter.kind is parameter.VAR_POSITIONAL else (value,)
            for item in values:
                if not is_bearable(item, parameter.annotation):
                    return _sentence(name, item, parameter.annotation)
    return None


def _sentence(name: str, value: Any, hint: Any) -> str:
    return f"`{name}` is {described(value)} where {_needed(hint)} is needed{_remedy(value, hint)}"


def described(value: Any) -> str:
    """The value in a few words, without the contents of arrays and lists."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        traced = "traced " if isinstance(value, jax.core.Tracer) else ""
        return f"{_article(traced or str(value.dtype))} {traced}{value.dtype} array of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple | set | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', 'without a name')}"
    return f"{_article(type(value).__name__)} {type(value).__name__}"


def _article(name: str) -> str:
    return "an" if name[:1].lower() in "aeio" else "a"


def _needed(hint: Any) -> str:
    """An annotation in words."""
    words: list[str] = []
    for option in _options(hint):
        word = _option_in_words(option)
        if word not in words:
            words.append(word)
    if "a number" in words and "an integer" in words:
        words.remove("an integer")
    return " or ".join(words)


def _option_in_words(option: Any) -> str:
    if option is type(None) or option is None:
        return "None"
    if option is float:
        return "a number"
    if option is int:
        return "an integer"
    if option == tuple[int, ...]:
        return "a tuple of sizes"
    if _is_array_hint(option):
        if _is_key_hint(option):
            return "one typed key" if option.dim_str.strip() == "" else f"typed keys [{option.dim_str.strip()}]"
        kind = {"Float": "floating-point", "Integer": "integer", "Int": "integer", "Bool": "boolean", "UInt8": "uint8"}
        dtype = option.__name__.split("[")[0]
        shape = option.dim_str.strip()
        word = f"{kind.get(dtype, '')} {'scalar' if shape == '' else 'array'}".strip()
        return f"{_article(word)} {word}" + (f" [{shape}]" if shape else "")
    origin = typing.get_origin(option)
    if option is Callable or origin is Callable or getattr(origin, "__name__", "") == "Callable":
        return "a callable"
    name = getattr(origin or option, "__name__", None) or str(option).replace("typing.", "")
    return f"{_article(name)} {name}"


def _is_key_hint(option: Any) -> bool:
    return option.__name__.startswith("Key[")


def _remedy(value: Any, hint: Any) -> str:
    options = _options(hint)
    arrays = [option for option in options if _is_array_hint(option)]
    if any(_is_key_hint(option) for option in arrays):
        return KEY_REMEDY
    if isinstance(value, type) and not arrays:
        return f": make an instance, `{value.__name__}(...)`"
    if inspect.isroutine(value) and not arrays and "a callable" not in _needed(hint):
        return f": call it, `{value.__name__}(...)`"
    if arrays and isinstance(value, list | tuple):
        return ": give a NumPy or JAX array"
    if arrays and not isinstance(value, jax.Array | np.ndarray) and callable(getattr(value, "to_numpy", None)):
        return ": give the numbers, `.to_numpy()`"
    if arrays and isinstance(value, jax.Array | np.ndarray) and any(o.__name__.startswith("Float") for o in arrays):
        if jnp.issubdtype(value.dtype, jnp.integer):
            return ": convert it, `.astype(float)`"
        if value.dtype.kind in "OSU":
            return ": give an array of numbers"
    if any(option is int for option in options) and isinstance(value, float) and value.is_integer():
        return f": give {int(value)}"
    return ""
