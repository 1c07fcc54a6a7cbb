"""Rows of a batch that have no result: rows that are not finite, and rows whose solve failed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ._types import is_traced


def is_finite(*trees: PyTree) -> Bool[Array, ""]:
    """Whether one example, with everything that belongs to it, holds no NaN and no infinity."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.asarray(True)


def zeros_unless(good: Bool[Array, ""], tree: PyTree) -> PyTree:
    """One example unchanged if `good`, otherwise zeros.

    A solver would use all of its `max_steps` on an example that is not finite.
    """

    def choose(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.where(good, leaf, 0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(choose, tree)


def nan_unless(good: Bool[Array, "..."], value: Array) -> Array:
    """The result of one example if `good`, otherwise NaN. Integers have no NaN and are not changed."""
    return value if not jnp.issubdtype(value.dtype, jnp.inexact) else jnp.where(good, value, jnp.nan)


def settled(values: Array, failed: Bool[Array, " batch"], *, throw: bool) -> Array:
    """The results of a batch, with NaN in the rows whose solve failed. With `throw`, such rows raise an error.

    **Raises:** `RuntimeError`, at run time if the batch is traced.
    """
    wide = failed.reshape(-1, *[1] * (values.ndim - 1))
    if not throw:
        return nan_unless(~wide, values)
    if is_traced(failed):
        return eqx.error_if(values, failed.any(), _complaint("some rows"))
    if failed.any() and not failed.is_fully_addressable:
        raise RuntimeError(_complaint("some rows"))
    if failed.any():
        rows = np.flatnonzero(failed)
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        raise RuntimeError(_complaint(f"{len(rows)} of {failed.size} rows ({shown})"))
    return values


def _complaint(rows: str) -> str:
    return (
        f"the solve of {rows} failed: it took `max_steps` steps or became infinite or NaN. With `throw=False` these "
        "rows are NaN; a larger `max_steps` of `fp.ODEIntegrator`, or larger tolerances, may let the solve finish"
    )
