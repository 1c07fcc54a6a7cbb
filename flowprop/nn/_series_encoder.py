"""An encoder of series: convolutions along one axis."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import PRNGKey, check_key, check_positive, check_shape, checked
from ._activation import silu
from ._linear import Linear


class SeriesEncoder(eqx.Module):
    """An encoder (embedding network) of series `(length, channels)`: convolutions of stride 2, and one dense layer.

    A convolution is a matrix product over windows of the series, padded with zeros. This is as fast as other layers
    inside loops on a CPU, where XLA's gradient of a convolution is slow.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    encoder = fp.nn.SeriesEncoder((100, 1), 16, channels=(8, 8), key=jax.random.key(0))
    print(jax.vmap(encoder)(jnp.zeros((5, 100, 1))).shape)  # (5, 16)
    ```

    **Arguments:**

    - `shape`: the shape `(length, channels)` of one series.
    - `features`: the size of the output vector, 32 by default.
    - `channels`: the number of output channels of each convolution, in order, `(16, 32, 32)` by default. Each halves
      the length, rounded up.
    - `kernel_size`: the length of the kernels, 5 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for the initial weights.

    **Raises:** `ValueError` if a size is not positive, or `channels` is empty.
    """

    convolutions: tuple[Linear, ...]
    dense: Linear
    shape: tuple[int, int] = eqx.field(static=True)
    kernel_size: int = eqx.field(static=True)

    @checked
    def __init__(
        self,
        shape: tuple[int, int],
        features: int = 32,
        *,
        channels: tuple[int, ...] = (16, 32, 32),
        kernel_size: int = 5,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        check_positive(features=features, kernel_size=kernel_size)
        if min(*shape, *channels) < 1 or not channels:
            raise ValueError(
                f"`shape` is {shape} and `channels` is {channels}: give positive sizes, and at least one convolution"
            )
        *keys, key_dense = jax.random.split(key, len(channels) + 1)
        self.convolutions = tuple(
            Linear(kernel_size * a, b, gain=2.0**0.5, key=k)
            for (a, b), k in zip(pairwise((shape[1], *channels)), keys, strict=True)
        )
        length = -(-shape[0] // 2 ** len(channels))
        self.dense = Linear(length * channels[-1], features, gain=2.0**0.5, key=key_dense)
        self.shape, self.kernel_size = shape, kernel_size

    @checked
    def __call__(self, x: Float[Array, "length channels"]) -> Float[Array, " features"]:
        """The features of one series. Use `jax.vmap` for a batch.

        **Arguments:**

        - `x`: a series of the encoder's `shape`.

        **Returns:** a vector of `features` numbers.

        **Raises:** `ValueError` if the series has another shape.
        """
        check_shape("x", x, self.shape, "the encoder's `shape`: length, channels")
        h = x
        for convolution in self.convolutions:
            h = silu(jax.vmap(convolution)(self._windows(h)))
        return silu(self.dense(h.ravel()))

    def _windows(self, h: Float[Array, "length channels"]) -> Float[Array, "windows values"]:
        """The windows around every second position, flattened."""
        before = (self.kernel_size - 1) // 2
        padded = jnp.pad(h, ((before, self.kernel_size - before), (0, 0)))
        places = np.arange(0, len(h), 2)[:, None] + np.arange(self.kernel_size)[None]
        return padded[places].reshape(len(places), -1)
