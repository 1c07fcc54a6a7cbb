"""An affine map whose weight is stored as it is used."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import PRNGKey


class Linear(eqx.Module):
    """`x W + b`, with `W` of shape `(in, out)`, so that a batch is one product without a transpose.

    **Arguments:**

    - `in_size`, `out_size`: sizes of the vectors.
    - `gain`: the weights are normal with variance `gain^2 / in_size`; the bias is 0.
    - `key`: for the weights.
    """

    weight: Float[Array, "in_size out_size"]
    bias: Float[Array, " out_size"]

    def __init__(self, in_size: int, out_size: int, *, gain: float = 1.0, key: PRNGKey) -> None:
        self.weight = gain / max(in_size, 1) ** 0.5 * jax.random.normal(key, (in_size, out_size))
        self.bias = jnp.zeros(out_size)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        """The image of one vector."""
        return x @ self.weight + self.bias
