"""An affine map whose weight is stored as it is used."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import PRNGKey, Real, check_key, check_number, check_positive, check_shape, checked


class Linear(eqx.Module):
    """`x W + b`, with `W` of shape `(in, out)`, so that a batch is one product without a transpose.

    **Arguments:**

    - `in_size`, `out_size`: sizes of the vectors.
    - `gain`: the weights are normal with variance `gain^2 / in_size`; the bias is 0.
    - `key`: for the weights.

    **Raises:** `ValueError` for a size that is not positive, a `gain` that is not finite and, when called, for a vector
    of another size.
    """

    weight: Float[Array, "in_size out_size"]
    bias: Float[Array, " out_size"]

    @checked
    def __init__(self, in_size: int, out_size: int, *, gain: Real = 1.0, key: PRNGKey) -> None:
        check_key("key", key)
        check_positive(in_size=in_size, out_size=out_size)
        check_number("gain", gain, remedy="give a finite number")
        self.weight = gain / in_size**0.5 * jax.random.normal(key, (in_size, out_size))
        self.bias = jnp.zeros(out_size)

    @checked
    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        """The image of one vector."""
        check_shape("x", x, self.weight.shape[:1], "the layer's `in_size`")
        return x @ self.weight + self.bias
