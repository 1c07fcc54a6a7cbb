"""An encoder of sets, whose order does not matter and whose number of elements may vary."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._types import PRNGKey, check_key, check_positive, check_shape, checked
from ._activation import silu
from ._linear import Linear


class SetEncoder(eqx.Module):
    """An encoder (embedding network) of a set of elements, such as several independent observations: deep sets.

    Each element passes through one perceptron. The mean over the elements, with the logarithm of their number, passes
    through another: `rho(mean_i phi(x_i), log m)`. So the order of the elements does not matter
    ([Zaheer et al. 2017](https://arxiv.org/abs/1703.06114), theorem 2). For a number of elements that varies, fill the
    sets up to one size and mark the elements that are there.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    encoder = fp.nn.SetEncoder((2,), 8, key=jax.random.key(0))
    elements = jax.random.normal(jax.random.key(1), (5, 2))
    print(encoder(elements).shape)  # (8,)
    present = jnp.array([True, True, True, False, False])
    print(jnp.allclose(encoder((elements, present)), encoder(elements[:3]), atol=1e-6))  # True
    ```

    **Arguments:**

    - `shape`: the shape of one element.
    - `features`: the size of the output vector, 32 by default.
    - `width`: the size of the hidden layers, 64 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive.
    """

    elements: tuple[Linear, Linear]
    pooled: tuple[Linear, Linear]
    shape: tuple[int, ...] = eqx.field(static=True)

    @checked
    def __init__(self, shape: tuple[int, ...], features: int = 32, *, width: int = 64, key: PRNGKey) -> None:
        check_key("key", key)
        check_positive(features=features, width=width)
        if any(size < 1 for size in shape):
            raise ValueError(f"`shape` is {shape}: give positive sizes, without the axis of elements")
        keys = jax.random.split(key, 4)
        gain = 2.0**0.5
        self.elements = (Linear(math.prod(shape), width, key=keys[0]), Linear(width, width, gain=gain, key=keys[1]))
        self.pooled = (Linear(width + 1, width, key=keys[2]), Linear(width, features, gain=gain, key=keys[3]))
        self.shape = shape

    @checked
    def __call__(
        self,
        x: Float[Array, "elements *shape"] | tuple[Float[Array, "elements *shape"], Bool[Array, " elements"]],
    ) -> Float[Array, " features"]:
        """The features of one set. Use `jax.vmap` for a batch.

        **Arguments:**

        - `x`: the elements, `(m, *shape)`; or a pair of the elements and of an array `(m,)` of Booleans, which says
          which of them are there. The values of the others do not matter, if they are finite.

        **Returns:** a vector of `features` numbers.

        **Raises:** `ValueError` if the elements have another shape.
        """
        values, present = x if isinstance(x, tuple) else (x, None)
        check_shape("x", values, (None, *self.shape), "the axis of elements, then the encoder's `shape`")
        weights: Any = jnp.ones(len(values), values.dtype) if present is None else present.astype(values.dtype)
        count = weights.sum()
        first, second = self.elements
        hidden = jax.vmap(lambda one: silu(second(silu(first(one.ravel())))))(values)
        # A set without elements has the mean 0.
        mean = weights @ hidden / jnp.maximum(count, 1)
        into, out = self.pooled
        return out(silu(into(jnp.append(mean, jnp.log1p(count)))))
