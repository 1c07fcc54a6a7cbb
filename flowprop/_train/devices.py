"""How training is laid out over several devices: data parallel, with the parameters replicated or sharded."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from .data import to_device


class Layout(NamedTuple):
    """Where arrays live: on one device, or on the devices of a mesh. Batches are split along all axes of the mesh."""

    mesh: Mesh | None = None
    #: The partition of each array of a training state, in the order of its leaves.
    state: tuple[PartitionSpec, ...] = ()

    def shard(self, batch: PyTree) -> PyTree:
        """A batch, inside a compiled program, with its rows split over the devices."""
        if self.mesh is None:
            return batch
        rows = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, rows), batch)

    def like(self, state: PyTree) -> PyTree:
        """A state, inside a compiled program, laid out as `self.state` says: otherwise the next call compiles again."""
        if self.mesh is None:
            return state
        leaves, structure = jax.tree.flatten(state)
        laid = [
            jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))
            for leaf, spec in zip(leaves, self.state, strict=True)
        ]
        return jax.tree.unflatten(structure, laid)

    def of(self, state: PyTree) -> "Layout":
        """This layout, with the arrays of a state partitioned as they are."""
        if self.mesh is None:
            return self
        return self._replace(state=tuple(partition(leaf) or PartitionSpec() for leaf in jax.tree.leaves(state)))

    def place(self, tree: PyTree, stacked: bool = False) -> PyTree:
        """A PyTree with its arrays on the devices.

        What is sharded over the mesh already keeps its sharding; all else goes to each device as a whole, or, if
        `stacked`, with the second axis split: that of the examples, where the first is that of the steps.
        """
        mesh = self.mesh
        if mesh is None:
            return to_device(tree)
        axes = PartitionSpec(None, mesh.axis_names) if stacked else PartitionSpec()
        return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, partition(leaf) or axes)), tree)


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    """`jax.device_put`, also to devices of other processes, where JAX takes arrays of the host alone.

    JAX compares such arrays: it raises an error if the processes do not give the same ones.
    """
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    return jax.device_put(np.asarray(leaf), sharding)


def partition(leaf: Any) -> PartitionSpec | None:
    """How an array is split over the axes of a mesh; `None` if it is not."""
    sharding = getattr(leaf, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else None


def layout_of(mesh: Any, data: PyTree, batch_size: int) -> Layout:
    """The layout for a mesh that the caller gives, or that the data are sharded over.

    **Raises:** `ValueError` if the batch does not split evenly, or if several processes run and no mesh is given.
    """
    if mesh is None:
        meshes = [a.sharding.mesh for a in jax.tree.leaves(data) if partition(a) is not None]
        mesh = next((mesh for mesh in meshes if mesh.size > 1), None)
    if mesh is None:
        if jax.process_count() > 1:
            raise ValueError(
                f"{jax.process_count()} processes run, and `mesh` is not given: give "
                "`mesh=jax.make_mesh((jax.device_count(),), ('data',))` to train one model on all devices"
            )
        return Layout()
    if not isinstance(mesh, Mesh):
        raise TypeError(f"`mesh` is {type(mesh).__name__}: give a `jax.sharding.Mesh`, made by `jax.make_mesh`")
    if batch_size % mesh.size:
        raise ValueError(
            f"`batch_size` is {batch_size}, which {mesh.size} devices cannot share evenly: "
            f"give {math.ceil(batch_size / mesh.size) * mesh.size}"
        )
    # With explicit axes, each gather and random draw of a loss would need a sharding of its own.
    return Layout(Mesh(np.asarray(mesh.devices), mesh.axis_names))
