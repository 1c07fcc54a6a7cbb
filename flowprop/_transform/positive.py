"""The transform for data above zero."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Scalar
from .parameters import Data, as_floats, widen
from .transform import AbstractBijectiveTransform, Requirement, Shape


class Positive(AbstractBijectiveTransform):
    """Data above zero: `z = log data`.

    Samples are always above zero. At and below zero the density is zero, with a `log_det` of minus infinity and a
    finite `z`. If the data are far from 1, or vary by much more or less than a factor of `e`, use
    `fp.Chain(fp.Positive(), fp.Standardise.fit(numpy.log(points)))`.

    ```python
    import flowprop as fp

    transform = fp.Positive()
    print(transform.forward(1.0))  # 0.0
    print(transform.log_det(-1.0))  # -inf
    ```
    """

    @property
    def shape(self) -> Shape:
        """`None`: the shape is arbitrary."""
        return None

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The logarithm, and minus its sum.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar: minus infinity at and below zero.
        """
        data = as_floats(data)
        wide, limits = widen(data), jnp.finfo(data.dtype)
        z = jnp.log(jnp.clip(wide, float(limits.tiny), float(limits.max)))
        outside = jnp.any((wide <= 0) | (wide == jnp.inf))
        return z.astype(data.dtype), jnp.where(outside, -jnp.inf, -jnp.sum(z)).astype(data.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The exponential, and minus the sum of `z`.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        z = as_floats(z)
        wide, limits = widen(z), jnp.finfo(z.dtype)
        data = jnp.clip(jnp.exp(wide), float(limits.tiny), float(limits.max))
        return data.astype(z.dtype), -jnp.sum(wide).astype(z.dtype)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """The values have to be finite and above zero.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an iterator over one tuple: the fault, the remedy, and a mask of the values without the fault.
        """
        data = np.asarray(as_floats(data))
        right = (data > 0) & (data < np.inf)
        yield "values that are not above zero and finite, for `Positive`", "drop these rows, or shift the data", right
