"""Rows of a batch that have no answer: those that are not finite, and those whose solve failed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ._types import is_traced


def is_finite(*trees: PyTree) -> Bool[Array, ""]:
    """Whether one example, and all else that belongs to it, holds no NaN and no infinity."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.asarray(True)


def zeros_unless(good: Bool[Array, ""], tree: PyTree) -> PyTree:
    """One example as it is, or zeros: a solver would take its whole budget of steps for one that is not finite."""

    def choose(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.where(good, leaf, 0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(choose, tree)


def nan_unless(good: Bool[Array, "..."], value: Array) -> Array:
    """One example's result, or NaN; integers have none, and stay."""
    return value if not jnp.issubdtype(value.dtype, jnp.inexact) else jnp.where(good, value, jnp.nan)


def settled(values: Array, failed: Bool[Array, " batch"], *, throw: bool) -> Array:
    """A batch's results, NaN in the rows whose solve failed; with `throw`, such rows are an error.

    **Raises:** `RuntimeError`, at run time if the batch is traced.
    """
    wide = failed.reshape(-1, *[1] * (values.ndim - 1))
    if not throw:
        return nan_unless(~wide, values)
    if is_traced(failed):
        return eqx.error_if(values, failed.any(), _complaint("some rows"))
    if failed.any():
        rows = np.flatnonzero(failed)
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        raise RuntimeError(_complaint(f"{len(rows)} of {failed.size} rows ({shown})"))
    return values


def _complaint(rows: str) -> str:
    return (
        f"the solve of {rows} failed: it took `max_steps` steps or left the finite numbers. `throw=False` gives NaN in "
        "these rows; `fp.ODEIntegrator(max_steps=...)` or larger tolerances may let them end"
    )
