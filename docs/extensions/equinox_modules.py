"""What static analysis cannot see of a library on Equinox and jaxtyping.

Equinox makes a dataclass of every module without a decorator, and jaxtyping writes shapes as
strings, which are no annotations of their own.
"""

import ast
from collections.abc import Iterator

import griffe


class EquinoxModules(griffe.Extension):
    """Gives modules the constructor that their fields define, and shapes their quotes."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        for item in list(_objects(pkg)):
            if isinstance(item, griffe.Class) and _is_concrete_module(item) and "__init__" not in item.members:
                item.set_member("__init__", _constructor(item))
            for annotation in _annotations(item):
                _quote_shapes(annotation)


def _objects(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _is_concrete_module(class_: griffe.Class) -> bool:
    bases = [base for parent in (class_, *class_.mro()) for base in parent.bases]
    is_module = any(isinstance(base, griffe.Expr) and base.canonical_path == "equinox.Module" for base in bases)
    return is_module and not class_.name.startswith("Abstract")


def _constructor(class_: griffe.Class) -> griffe.Function:
    either = griffe.ParameterKind.positional_or_keyword
    fields = [
        griffe.Parameter(field.name, annotation=field.annotation, kind=either, default=_default(field))
        for field in class_.attributes.values()
        if "instance-attribute" in field.labels and field.annotation is not None
    ]
    parameters = griffe.Parameters(griffe.Parameter("self", kind=either), *fields)
    return griffe.Function("__init__", parameters=parameters, parent=class_, returns="None")


def _default(field: griffe.Attribute) -> str | None:
    """The default of a field, which `eqx.field(default=...)` may hold."""
    if field.value is None:
        return None
    call = ast.parse(str(field.value), mode="eval").body
    if isinstance(call, ast.Call) and ast.unparse(call.func) == "eqx.field":
        return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "default"), None)
    return str(field.value)


def _annotations(item: griffe.Object) -> list[str | griffe.Expr | None]:
    if isinstance(item, griffe.Function):
        return [item.returns, *(parameter.annotation for parameter in item.parameters)]
    return [item.annotation] if isinstance(item, griffe.Attribute) else []


def _is_jaxtyping(name: str | griffe.Expr) -> bool:
    return isinstance(name, griffe.Expr) and name.canonical_path.startswith("jaxtyping.")


def _quote_shapes(annotation: str | griffe.Expr | None) -> None:
    """Write the shape in `Float[Array, "batch 2"]` as the string that it is, wherever it stands."""
    match annotation:
        case griffe.ExprSubscript(left=left, slice=griffe.ExprTuple(elements=[kind, shape])) if _is_jaxtyping(left):
            text = str(shape).strip("'\"").strip().replace(" * ", " *")
            annotation.slice.elements = [kind, f'"{text}"']
        case griffe.ExprSubscript():
            _quote_shapes(annotation.slice)
        case griffe.ExprTuple() | griffe.ExprList():
            for element in annotation.elements:
                _quote_shapes(element)
        case griffe.ExprBinOp():
            _quote_shapes(annotation.left)
            _quote_shapes(annotation.right)
