"""The transform that shifts and scales each coordinate of the data."""

from collections.abc import Iterator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._frozen import Frozen
from .._types import Scalar, check_shape
from .moments import moments
from .parameters import Data, Numbers, as_floats, freeze, freeze_in_two, parameter, same_shape, sum_of, widen
from .transform import AbstractBijectiveTransform, Requirement, Shape


class Standardise(AbstractBijectiveTransform):
    """Data shifted and scaled: `z = (data - mean) / std`, for each coordinate.

    The mean is stored in double precision, as two numbers, and it is subtracted before the division. Digits that the
    dtype of the data does not have cannot be recovered: neighbouring float32 numbers near 1000 are 6e-5 apart, so data
    of mean 1000 and standard deviation 1e-4 are on a grid of 0.6 standard deviations. For such data, subtract an offset
    in double precision before, or enable double precision in JAX.

    **Arguments:**

    - `mean`: the value that becomes 0: an array of the shape of one example, or a number for all coordinates.
    - `std`: the difference that becomes 1, in the same form. Positive.

    **Raises:** `ValueError` for a `mean` or `std` that is not finite, a `std` that is not positive, or two that have
    different shapes.

    ```python
    import flowprop as fp
    import jax

    points = 170.0 + 8.0 * jax.random.normal(jax.random.key(0), (1000, 2))
    transform = fp.Standardise.fit(points)
    z = transform.forward(points)
    print(abs(z.mean(axis=0)).max() < 1e-4, z.std(axis=0).round(3))  # True [1. 1.]
    ```
    """

    mean: Frozen
    mean_remainder: Frozen
    std: Frozen
    _shape: Shape = eqx.field(static=True)

    def __init__(self, mean: Numbers, std: Numbers) -> None:
        mean = parameter("mean", mean, "give the data's mean, or `Standardise.fit(points)`")
        std = parameter("std", std, "give the data's standard deviation, or `Standardise.fit(points)`", positive=True)
        self._shape = same_shape(("mean", mean), ("std", std), "give both the shape of one example, or a number")
        self.mean, self.mean_remainder = freeze_in_two(mean)
        self.std = freeze(std)

    @classmethod
    def fit(cls, points: Numbers) -> "Standardise":
        """The transform after which every column of `points` has mean 0 and standard deviation 1.

        Both are computed in double precision.

        **Arguments:**

        - `points`: `(rows, *shape)`, of floats or integers, from NumPy, JAX, or a list of rows. At least two rows.

        **Returns:** a [`flowprop.Standardise`][].

        **Raises:** `TypeError` if `points` is not an array of real numbers. `ValueError` for values that are NaN or
        infinite, columns that are constant or vary only by rounding, and fewer than two rows; the message names the
        columns.

        ```python
        import flowprop as fp
        import numpy as np

        transform = fp.Standardise.fit(np.array([[1.0], [3.0]]))
        print(transform.forward(np.array([4.0])))  # [2.]
        ```
        """
        fitted = moments(points)
        return cls(fitted.mean, fitted.std)

    @property
    def shape(self) -> Shape:
        """The shape of the parameters, or `None` if both are numbers."""
        return self._shape

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """`(data - mean) / std`, and minus the sum of `log std`.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar.
        """
        data = self._one("data", data)
        wide = widen(data)
        # The first difference is exact near the mean: two floats within a factor of two have an exact difference.
        z = ((wide - self._in(self.mean, wide)) - self._in(self.mean_remainder, wide)) / self._in(self.std, wide)
        return z.astype(data.dtype), self._log_det(wide).astype(data.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """`mean + std z`, and minus the sum of `log std`.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        z = self._one("z", z)
        wide = widen(z)
        data = self._in(self.mean, wide) + (self._in(self.mean_remainder, wide) + self._in(self.std, wide) * wide)
        return data.astype(z.dtype), self._log_det(wide).astype(z.dtype)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """No requirements.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an empty iterator.
        """
        yield from ()

    def _log_det(self, wide: Float[Array, "*shape"]) -> Scalar:
        return -sum_of(jnp.log(self._in(self.std, wide)), wide)

    def _one(self, name: str, array: Data) -> Float[Array, "*shape"]:
        array = as_floats(array)
        if self.shape is not None:
            check_shape(name, array, self.shape, "one example has the shape of `mean` and `std`")
        return array

    def _in(self, frozen: Frozen, wide: Float[Array, "*shape"]) -> Array:
        return frozen.value.astype(wide.dtype)
