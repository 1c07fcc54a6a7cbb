"""Examples that are spread over devices: each device computes those that it holds."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ._types import PRNGKey, is_traced


def row_sharding(model: PyTree, *trees: PyTree) -> NamedSharding | None:
    """How the first axis of some arrays is split over devices: as that of the first array that is split.

    `None` if no first axis is split. The sharding of a traced array is known only on a mesh with explicit axes. On one
    with automatic axes, the compiler decides. It also decides if `model` is traced and the arrays are not, as under
    `jax.grad`: the derivative of Equinox's loops does not work inside `jax.shard_map`.
    """
    for leaf in jax.tree.leaves(trees):
        # jax.typeof(leaf): its type is not public.
        sharding: Any = (
            (jax.typeof(leaf) if is_traced(leaf) else leaf).sharding if isinstance(leaf, jax.Array) else None
        )
        spec = getattr(sharding, "spec", ())
        if spec and spec[0] is not None:
            automatic = AxisType.Explicit not in sharding.mesh.axis_types
            if automatic and is_traced(model) and not is_traced(leaf):
                return None
            return NamedSharding(sharding.mesh, PartitionSpec(spec[0]))
    return None


def draw_sharding(
    name: str, count: int, model: PyTree, x: PyTree, out_sharding: NamedSharding | None
) -> NamedSharding | None:
    """How `count` draws are split over devices: as `out_sharding` says, or else as their conditions.

    **Raises:** `ValueError` if `out_sharding` does not split the first axis alone, or not into equal parts.
    """
    if out_sharding is None:
        return row_sharding(model, x)
    if not out_sharding.spec or out_sharding.spec[0] is None or any(out_sharding.spec[1:]):
        raise ValueError(
            f"`out_sharding` has the spec {out_sharding.spec}: name the axis of the mesh that splits the first axis of "
            "the samples, `jax.sharding.PartitionSpec(axis)`"
        )
    parts = math.prod(out_sharding.mesh.shape[axis] for axis in _axes(out_sharding))
    if count % parts:
        raise ValueError(f"`{name}` is {count} where `out_sharding` splits the samples {parts} ways: give a multiple")
    return NamedSharding(out_sharding.mesh, PartitionSpec(out_sharding.spec[0]))


def on_devices_of(out_sharding: NamedSharding | None, key: PRNGKey) -> PRNGKey:
    """`key`, copied to the devices of `out_sharding`: a program without arguments there would not know the devices."""
    if out_sharding is None or is_traced(key) or not jax.sharding.get_abstract_mesh().empty:
        return key
    return jax.device_put(key, NamedSharding(out_sharding.mesh, PartitionSpec()))


def on_each_device(function: Callable[[PyTree], PyTree], arguments: PyTree, rows: NamedSharding) -> PyTree:
    """`function(arguments)`, computed by each device for the rows that it holds, without any communication.

    Arrays in a closure of `function` are copied to all devices of the mesh. The compiler decides over no axis of the
    mesh, since the checks of a solve could not run then.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Diffrax's loops do not say which of their values differ between devices, so `check_vma` has to be off.
    local = jax.shard_map(
        function,
        mesh=rows.mesh if mesh.empty else None,
        in_specs=rows.spec,
        out_specs=rows.spec,
        check_vma=False,
    )
    return local(arguments)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit(function)`, for a function that may have an argument `rows`, as `row_sharding` finds it.

    On a mesh with explicit axes, the default of `jax.make_mesh`, JAX requires every operation to state how its result
    is spread over the devices. The loops of a solve do not state it. Inside `function` the axes are therefore
    automatic. Its results, whose first axis counts examples, are spread as `rows`, or not at all.

    **Raises:** `TypeError` inside a `jax.shard_map` that checks its axes, which the loops of a solve do not support.
    """

    @eqx.filter_jit
    @functools.wraps(function)
    def call(*args: Any, **named: NamedSharding | None) -> Any:
        arrays, others = eqx.partition(args, eqx.is_array)
        # jax.typeof(array): its type is not public.
        types: list[Any] = [jax.typeof(leaf) for leaf in jax.tree.leaves(arrays)]
        # The name of this property has changed between versions of JAX.
        if any(getattr(getattr(kind, "manual_axis_type", None), "varying", ()) for kind in types):
            raise TypeError(
                "inside `jax.shard_map`, a solve needs `jax.shard_map(..., check_vma=False)`: the loops of Diffrax do "
                "not say which of their values differ between devices"
            )
        meshes = [kind.sharding.mesh for kind in types] + [jax.sharding.get_abstract_mesh()]
        mesh = next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)
        if mesh is None:
            return function(*args, **named)
        rows = named.get("rows")
        spec = PartitionSpec() if rows is None else rows.spec
        body = jax.sharding.auto_axes(
            lambda arrays: function(*eqx.combine(arrays, others), **named), out_sharding=NamedSharding(mesh, spec)
        )
        return body(arrays)

    return call


def _axes(rows: NamedSharding) -> tuple[str, ...]:
    """The axes of the mesh over which rows are split."""
    axes = rows.spec[0]
    return axes if isinstance(axes, tuple) else (axes,)
