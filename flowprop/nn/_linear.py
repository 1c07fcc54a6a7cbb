"""An affine map."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import PRNGKey, Real, check_key, check_number, check_positive, check_shape, checked


class Linear(eqx.Module):
    """The affine map `x W + b` of a vector.

    `W` has the shape `(in_size, out_size)`, so that a batch needs one matrix product and no transpose. The initial
    weights are normal with mean 0 and variance `gain^2 / in_size`; the initial bias is 0.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    layer = fp.nn.Linear(3, 2, key=jax.random.key(0))
    print(layer(jnp.ones(3)).shape)  # (2,)
    print(layer.weight.shape, layer.bias)  # (3, 2) [0. 0.]
    ```

    **Arguments:**

    - `in_size`: the size of the input vector.
    - `out_size`: the size of the output vector.
    - `gain`: the factor of the weights' standard deviation, 1 by default. With 0 all weights begin at 0.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, or `gain` is not finite.
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
        """The output for one vector. Use `jax.vmap` for a batch.

        **Arguments:**

        - `x`: a vector of `in_size` numbers.

        **Returns:** a vector of `out_size` numbers.

        **Raises:** `ValueError` if `x` has another size.
        """
        check_shape("x", x, self.weight.shape[:1], "the layer's `in_size`")
        return x @ self.weight + self.bias
