"""An orthonormal basis of a few vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


Rows = Float[Array, "rows dim"]


def orthonormal(rows: Rows, fallback: Rows) -> Rows:
    """An orthonormal basis of the span of `rows`, through which no gradient flows.

    The function repeats the Gram-Schmidt method twice. It uses products of a few vectors, which run well under `vmap`;
    a QR decomposition does not. If a row lies in the span of the rows before it, only rounding errors are left of it.
    Then the row of `fallback` with the same index replaces it, so that the basis always has as many rows as `rows`.
    """
    rows, fallback = jax.lax.stop_gradient((rows, fallback))

    def add(basis: Rows, item: tuple[Int[Array, ""], Array, Array]) -> tuple[Rows, None]:
        index, row, instead = item
        return basis.at[index].set(_remainder(row, instead, basis)), None

    # `scan` and not a Python loop: an unrolled loop over a few dozen rows takes minutes to compile.
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
