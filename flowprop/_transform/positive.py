"""Data above zero."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Scalar
from .parameters import Data, as_floats, widen
from .transform import AbstractBijectiveTransform, Requirement, Shape


class Positive(AbstractBijectiveTransform):
    """Data above zero: `z = log data`.

    Samples are above zero. At zero and below it the density is zero, with a `log_det` of minus infinity and a finite
    `z`. Data that are far from 1, or vary by much more or less than a factor of `e`, are brought to unit scale by
    `fp.Chain(fp.Positive(), fp.Standardise.fit(numpy.log(points)))`.

    ```python
    import flowprop as fp

    transform = fp.Positive()
    transform.forward(1.0)  # 0.0
    transform.log_det(-1.0)  # -inf
    ```
    """

    @property
    def shape(self) -> Shape:
        """`None`: any shape will do."""
        return None

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The logarithm, and minus its sum."""
        data = as_floats(data)
        wide, limits = widen(data), jnp.finfo(data.dtype)
        z = jnp.log(jnp.clip(wide, float(limits.tiny), float(limits.max)))
        outside = jnp.any((wide <= 0) | (wide == jnp.inf))
        return z.astype(data.dtype), jnp.where(outside, -jnp.inf, -jnp.sum(z)).astype(data.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The exponential, and minus the sum of `z`."""
        z = as_floats(z)
        wide, limits = widen(z), jnp.finfo(z.dtype)
        data = jnp.clip(jnp.exp(wide), float(limits.tiny), float(limits.max))
        return data.astype(z.dtype), -jnp.sum(wide).astype(z.dtype)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """Finite values above zero."""
        data = np.asarray(as_floats(data))
        right = (data > 0) & (data < np.inf)
        yield "values that are not above zero and finite, for `Positive`", "drop these rows, or shift the data", right
