"""The transform for whole numbers, such as the levels of a pixel or counts."""

import math
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import PRNGKey, Scalar, check_positive, checked
from .parameters import Data, as_floats, widen
from .transform import AbstractTransform, Requirement, Shape, required_key


class Dequantise(AbstractTransform):
    """Whole numbers 0, 1, 2, ... with uniform noise added: `z = x + u`, with `u` uniform on [0, 1).

    A flow with the density `q` gives a whole number the probability `P(x) = E_u[q(x + u)]` ([Theis et al.
    2016](https://arxiv.org/abs/1511.01844), section 3.1). It is estimated by the mean over `num_draws` draws of `u`.
    This makes `log P` a lower bound on average, which becomes tighter with more draws. Samples are rounded down.

    Put this transform first, and bounds after it: `fp.Chain(fp.Dequantise(), fp.Bounded(0.0, 256.0))` for the pixels of
    an image. Without bounds some samples may be below zero.

    The noise takes 4096 values if the numbers are below 2^11 in float32, and fewer for larger numbers. From 2^23 on
    float32 has no fractions, from 2^7 on bfloat16 has none.

    **Arguments:**

    - `num_draws`: the number of draws of the noise for each likelihood. By default 1.

    **Raises:** `ValueError` if `num_draws` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    transform = fp.Dequantise()
    z = transform.draw(jnp.array([0, 1, 254]), key=jax.random.key(0))
    print(transform.inverse(z))  # [  0.   1. 254.]
    ```
    """

    num_draws: int = eqx.field(static=True)

    @checked
    def __init__(self, num_draws: int = 1) -> None:
        check_positive(num_draws=num_draws)
        self.num_draws = num_draws

    @property
    def is_bijective(self) -> bool:
        """`False`: a whole number stands for an interval."""
        return False

    @property
    def shape(self) -> Shape:
        """`None`: the shape is arbitrary."""
        return None

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The middle of the interval, `x + 1/2`, and 0; minus infinity for any value that is not 0, 1, 2, ...

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar.
        """
        levels = as_floats(data)
        return _within(levels, 0.5), _log_det(levels)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """`z` rounded down, and 0.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        z = as_floats(z)
        return jnp.floor(z), jnp.zeros((), z.dtype)

    @checked
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """One example with noise.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key, needed.

        **Returns:** `z`, `(*shape)`.

        **Raises:** `ValueError` if `key` is missing.
        """
        key = required_key(key, "`Dequantise`", "its noise")
        levels = as_floats(data)
        # The middles of 4096 parts of an interval.
        return _within(levels, (jax.random.randint(key, levels.shape, 0, 4096) + 0.5) / 4096)

    @checked
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages *shape"], Float[Array, " preimages"]]:
        """`num_draws` draws, each with the weight `1 / num_draws`.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key, needed.

        **Returns:** the points, `(num_draws, *shape)`, and their log-weights, `(num_draws,)`.

        **Raises:** `ValueError` if `key` is missing.
        """
        keys = jax.random.split(required_key(key, "`Dequantise`", "its noise"), self.num_draws)
        z = jax.vmap(lambda key: self.draw(data, key=key))(keys)
        return z, jnp.full(self.num_draws, _log_det(as_floats(data)) - math.log(self.num_draws))

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """The values have to be whole numbers from 0 on, in a dtype that has fractions of them.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an iterator over two tuples: the fault, the remedy, and a mask of the values without the fault.
        """
        levels = as_floats(data)
        wide = np.asarray(widen(levels))
        right = (wide >= 0) & (wide == np.floor(wide))
        yield "values that are not whole numbers from 0 on, for `Dequantise`", "give levels or counts", right
        limit = 2.0 ** jnp.finfo(levels.dtype).nmant
        fault = f"values from {limit:g} on, where {levels.dtype} has no fractions, for `Dequantise`"
        yield fault, "use a type with more bits, or treat the data as continuous", wide < limit


def _within(levels: Float[Array, "*shape"], noise: Array | float) -> Float[Array, "*shape"]:
    """`levels + noise`, kept from rounding up to the next interval."""
    z = (widen(levels) + noise).astype(levels.dtype)
    return jnp.where(jnp.floor(z) > levels, levels, z)


def _log_det(levels: Float[Array, "*shape"]) -> Scalar:
    outside = jnp.any((levels < 0) | (levels - jnp.floor(levels) > 0))
    return jnp.where(outside, -jnp.inf, 0.0).astype(levels.dtype)
