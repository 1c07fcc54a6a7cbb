"""Orthonormal bases of a few directions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


Rows = Float[Array, "rows dim"]


def orthonormal(rows: Rows, fallback: Rows) -> Rows:
    """An orthonormal basis of the rows' span, with no gradient flowing through it.

    By Gram and Schmidt, twice over: products of a few vectors, which batch well where a QR
    decomposition does not. Of a row in the span of those before it nothing is left but rounding:
    a row of `fallback` then stands in, so that the basis is always whole.
    """
    rows, fallback = jax.lax.stop_gradient((rows, fallback))

    def add(basis: Rows, item: tuple[Int[Array, ""], Array, Array]) -> tuple[Rows, None]:
        index, row, instead = item
        return basis.at[index].set(_remainder(row, instead, basis)), None

    # A loop: written out, a few dozen rows would take minutes to compile.
    basis, _ = jax.lax.scan(add, jnp.zeros_like(rows), (jnp.arange(len(rows)), rows, fallback))
    return basis


def _remainder(row: Float[Array, " dim"], instead: Float[Array, " dim"], basis: Rows) -> Float[Array, " dim"]:
    def less(v: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return v - (basis @ v) @ basis

    rest = less(row)
    lost = jnp.linalg.norm(rest) <= 10 * jnp.finfo(row.dtype).eps * jnp.linalg.norm(row)
    rest = jnp.where(lost, less(instead), rest)
    rest = less(rest / jnp.linalg.norm(rest))
    return rest / jnp.linalg.norm(rest)
