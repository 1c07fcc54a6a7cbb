"""The velocity of a linear-gaussian model, corrected by a network."""

import inspect
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._frozen import Frozen
from .._types import Point, PRNGKey, Time, check_shape, checked


class LinearGaussian(eqx.Module):
    """The exact velocity of a linear-gaussian model, corrected by a network.

    If `z_1` given `x` is `N(A x + b, I)`, with mean `m = A x + b`, then on the straight path
    `z_t = t z_1 + (1 - t) z_0` the velocity is `v = m + (2 t - 1) r / c^2`, where `r = z_t - t m` and
    `c^2 = t^2 + (1 - t)^2` is the variance of `r`. This network returns

    `m + (2 t - 1) r / c^2 + network(t, r / c, x) / c`.

    If the model holds, the input of the inner network and what is left for it to learn have variance 1 at all times:
    this is the preconditioning of [Karras et al. 2022](https://arxiv.org/abs/2206.00364) (appendix B.6), for data with
    a known mean. If the model holds only roughly, the inner network learns the difference. It is for velocity
    prediction on the straight path ([`flowprop.fm_flow`][]), and a part of the recipe of [`flowprop.fit_posterior`][],
    which computes `A` and `b` by least squares.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    inner = fp.nn.ResidualMLP((2,), condition_size=3, width=16, depth=1, key=jax.random.key(0))
    network = fp.nn.LinearGaussian(inner, jnp.ones((2, 3)), jnp.zeros(2))
    print(network(0.5, jnp.ones(2), jnp.ones(3)).shape)  # (2,)
    flow = fp.fm_flow(network, shape=(2,))
    ```

    **Arguments:**

    - `network`: a callable `network(t, z, x)`, or `network(t, z, x, key=key)`, on one example.
    - `matrix`: `A`, of shape `(d, k)` for points of `d` numbers and conditions `(k,)`. It is not trained.
    - `offset`: `b`, of shape `(d,)`. It is not trained.

    **Raises:** `TypeError` for a network with a state; `ValueError` for shapes that do not fit.
    """

    network: Callable[..., Array]
    matrix: Frozen
    offset: Frozen

    @checked
    def __init__(
        self,
        network: Callable[..., Array],
        matrix: Float[Array | np.ndarray, "d k"],
        offset: Float[Array | np.ndarray, " d"],
    ) -> None:
        if getattr(network, "has_state", False):
            raise TypeError("`network` has a state, which this wrapper does not pass on: give a network without")
        self.network = network
        self.matrix, self.offset = Frozen(jnp.asarray(matrix, float)), Frozen(jnp.asarray(offset, float))

    @checked
    def __call__(
        self, t: Time, z: Point, x: Float[Array | np.ndarray, " k"], *, key: PRNGKey | None = None
    ) -> Float[Array, "*shape"]:
        """The velocity for one example. Use `jax.vmap` for a batch.

        **Arguments:**

        - `t`: the time in [0, 1], a number or a scalar array.
        - `z`: the point, of `d` numbers.
        - `x`: the condition, `(k,)`.
        - `key`: a typed key in training, passed to the network if it takes one.

        **Returns:** the velocity, of the shape of `z`.

        **Raises:** `ValueError` if `z` or `x` has another size.
        """
        rows, columns = self.matrix.array.shape
        check_shape("z", z.ravel(), (rows,), "as many numbers as rows of `matrix`")
        check_shape("x", x, (columns,), "as many numbers as columns of `matrix`")
        matrix, offset = self.matrix.value.astype(z.dtype), self.offset.value.astype(z.dtype)
        mean = (matrix @ x.astype(z.dtype) + offset).reshape(z.shape)
        t = jnp.asarray(t, z.dtype)
        variance = t**2 + (1 - t) ** 2
        residual = z - t * mean
        std = jnp.sqrt(variance)
        takes_key = key is not None and "key" in inspect.signature(self.network).parameters
        options = {"key": key} if takes_key else {}
        correction = self.network(t, residual / std, x, **options)
        return mean + (2 * t - 1) * residual / variance + correction / std
