"""The transform that shifts, scales and decorrelates the data."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._frozen import Frozen
from .._types import Scalar, check_shape
from .moments import moments
from .parameters import Data, Numbers, as_floats, as_numbers, freeze, freeze_in_two, name_entries, parameter, widen
from .transform import AbstractBijectiveTransform, Requirement, Shape


class Whiten(AbstractBijectiveTransform):
    """Data shifted, scaled and decorrelated: `z = L^-1 (data - mean)`, where `L L^T` is the covariance.

    `L` is the lower-triangular Cholesky factor. It is stored as `L = diag(scale) C`, the standard deviations and the
    factor `C` of the correlation matrix, so that columns of very different scales keep their precision in float32. The
    example is flattened for the product.

    If the columns are hardly correlated, use [`flowprop.Standardise`][]: `Whiten` needs a triangular solve of `d^2`
    operations and stores `d^2` numbers.

    **Arguments:**

    - `mean`: the value that becomes 0, of the shape of one example with `d` coordinates.
    - `matrix`: `L`, of shape `(d, d)`, lower-triangular with a positive diagonal: `data = mean + L z`. For a given
      covariance it is `numpy.linalg.cholesky(covariance)`.

    **Raises:** `ValueError` for entries that are not finite, shapes that do not fit, or a `matrix` that is not
    lower-triangular with a positive diagonal.

    ```python
    import flowprop as fp
    import numpy as np

    rng = np.random.default_rng(0)
    covariance = [[1.0, 9.0], [9.0, 100.0]]
    points = rng.multivariate_normal([1.0, 300.0], covariance, size=1000)
    z = fp.Whiten.fit(points).forward(points)
    print(np.allclose(np.cov(z.T, ddof=0), np.eye(2), atol=1e-3))  # True
    ```
    """

    mean: Frozen
    mean_remainder: Frozen
    scale: Frozen
    factor: Frozen

    def __init__(self, mean: Numbers, matrix: Numbers) -> None:
        remedy = "give the lower Cholesky factor, `numpy.linalg.cholesky(covariance)`, or `Whiten.fit(points)`"
        mean = parameter("mean", as_numbers("mean", mean, "give the data's mean"), "give the data's mean")
        matrix = parameter("matrix", as_numbers("matrix", matrix, remedy), remedy)
        if mean.ndim == 0:
            raise ValueError("`mean` is a number: give an array of the shape of one example")
        check_shape("matrix", matrix, (mean.size, mean.size), "a row and a column for each entry of `mean`")
        if np.any(np.triu(matrix, 1)) or not (np.diag(matrix) > 0).all():
            raise ValueError(f"`matrix` is not lower-triangular with a positive diagonal: {remedy}")
        scale = np.linalg.norm(matrix, axis=1)
        self.mean, self.mean_remainder = freeze_in_two(mean)
        self.scale = freeze(parameter("matrix", scale, remedy, positive=True))
        self.factor = freeze(matrix / scale[:, None])

    @classmethod
    def fit(cls, points: Numbers) -> "Whiten":
        """The transform after which `points` has mean 0 and the identity as its covariance.

        It is computed in double precision, by a QR factorisation of the standardised columns. For nearly dependent
        columns this keeps twice as many digits as their covariance does.

        **Arguments:**

        - `points`: `(rows, *shape)`, of floats or integers, from NumPy, JAX, or a list of rows. More rows than
          coordinates.

        **Returns:** a [`flowprop.Whiten`][].

        **Raises:** `TypeError` if `points` is not an array of real numbers. `ValueError` for values that are NaN or
        infinite, columns that are constant or vary only by rounding, columns that are linear combinations of others,
        and too few rows; the message names the columns.

        ```python
        import flowprop as fp
        import numpy as np

        transform = fp.Whiten.fit(np.array([[0.0, 0.0], [2.0, 2.0], [0.0, 2.0], [2.0, 4.0]]))
        print(transform.forward(np.array([1.0, 2.0])))  # [0. 0.]
        ```
        """
        fitted = moments(points)
        rows, size = len(fitted.points), fitted.mean.size
        if rows <= size:
            raise ValueError(
                f"`points` has {rows} rows of {size} coordinates, so the covariance is singular: give more than {size} "
                "rows, or use `Standardise.fit(points)`"
            )
        units = ((fitted.points - fitted.mean) / fitted.std).reshape(rows, size)
        factor = np.transpose(np.linalg.qr(units, mode="r")) / np.sqrt(rows)
        factor = factor * np.where(np.diag(factor) < 0, -1.0, 1.0)
        # The part of a column that is independent of the others must exceed the rounding errors of these columns.
        noise = 4 * np.sqrt(size) * np.maximum((fitted.rounding / fitted.std).max(), np.finfo(np.float64).eps)
        dependent = np.diag(factor) <= noise
        if dependent.any():
            raise ValueError(_name_dependence(factor, int(np.argmax(dependent)), fitted.mean.shape))
        return cls(fitted.mean, fitted.std.reshape(size, 1) * factor)

    @property
    def shape(self) -> Shape:
        """The shape of `mean`."""
        return self.mean.array.shape

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """`L^-1 (data - mean)`, and minus the log-determinant of `L`.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar.
        """
        data = self._one("data", data)
        wide = widen(data)
        mean, remainder, scale, factor = self._in(wide)
        units = ((wide - mean) - remainder).reshape(-1) / scale
        z = jax.scipy.linalg.solve_triangular(factor, units, lower=True).reshape(data.shape)
        return z.astype(data.dtype), _log_det(scale, factor).astype(data.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """`mean + L z`, and minus the log-determinant of `L`.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        z = self._one("z", z)
        wide = widen(z)
        mean, remainder, scale, factor = self._in(wide)
        # In full precision: accelerators would otherwise round the factors to half precision.
        units = jnp.matmul(factor, wide.reshape(-1), precision=jax.lax.Precision.HIGHEST)
        data = mean + (remainder + (scale * units).reshape(z.shape))
        return data.astype(z.dtype), _log_det(scale, factor).astype(z.dtype)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """No requirements.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an empty iterator.
        """
        yield from ()

    def _one(self, name: str, array: Data) -> Float[Array, "*shape"]:
        array = as_floats(array)
        check_shape(name, array, self.mean.array.shape, "one example has the shape of `mean`")
        return array

    def _in(self, wide: Float[Array, "*shape"]) -> tuple[Array, Array, Array, Array]:
        mean, remainder, scale, factor = (
            frozen.value.astype(wide.dtype) for frozen in (self.mean, self.mean_remainder, self.scale, self.factor)
        )
        return mean, remainder, scale, factor


def _log_det(scale: Float[Array, " d"], factor: Float[Array, "d d"]) -> Scalar:
    return -jnp.sum(jnp.log(scale)) - jnp.sum(jnp.log(jnp.diag(factor)))


def _name_dependence(factor: Float[np.ndarray, "d d"], column: int, shape: tuple[int, ...]) -> str:
    """An error message with the columns of which one is a linear combination of the others."""
    shares = np.linalg.solve(factor[:column, :column].T, factor[column, :column])
    involved = np.zeros(len(factor), bool)
    involved[:column] = np.abs(shares) > 1e-3 * np.abs(shares).max(initial=0.0)
    involved[column] = True
    last = np.arange(len(factor)) == column
    return (
        f"`points` has linearly dependent values: {name_entries(last.reshape(shape))} is a combination of the others "
        f"among {name_entries(involved.reshape(shape))}, so the covariance is singular: drop one of them, or use "
        "`Standardise.fit(points)`"
    )
