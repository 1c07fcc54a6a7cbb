"""A transform of some coordinates of a vector."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import PRNGKey, Scalar, check_shape, checked
from .bijection import as_transform
from .parameters import Data, as_floats
from .transform import AbstractTransform, Requirement, Shape


class OnColumns(AbstractTransform):
    """A transform of some coordinates of a vector. The other coordinates are not changed.

    **Arguments:**

    - `columns`: the indices of the coordinates, in the order in which they are given to `transform`. Negative indices
      count from the end.
    - `transform`: a transform of vectors with `len(columns)` entries, or a bijection with flowjax's methods.

    **Raises:** `ValueError` if there are no columns, a column is given twice, or `transform` is for another shape.
    `TypeError` if `transform` is not a transform.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    # The first coordinate is an angle, the third is between 0 and 1.
    transform = fp.Chain(
        fp.OnColumns((0,), fp.Circular(2 * jnp.pi)),
        fp.OnColumns((2,), fp.Bounded(0.0, 1.0)),
    )
    print(transform.forward(jnp.array([0.1, 5.0, 0.5])).round(3))  # [0.044 5.    0.   ]
    ```
    """

    columns: tuple[int, ...] = eqx.field(static=True)
    transform: AbstractTransform

    @checked
    def __init__(self, columns: tuple[int, ...], transform: Any) -> None:
        if not columns or len(set(columns)) < len(columns):
            raise ValueError(f"`columns` is {columns}: give the index of each coordinate once")
        transform = as_transform(transform)
        shape = transform.shape
        if shape is not None and (len(shape) != 1 or shape[0] not in (None, len(columns))):
            raise ValueError(
                f"`transform` is for examples of shape {shape} where `columns` names {len(columns)} coordinates: give "
                f"a transform of vectors of shape ({len(columns)},)"
            )
        self.columns = columns
        self.transform = transform

    @property
    def is_bijective(self) -> bool:
        """Whether the transform of the columns is bijective."""
        return self.transform.is_bijective

    @property
    def shape(self) -> Shape:
        """A vector of any size."""
        return (None,)

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, " d"], Scalar]:
        """One vector with its columns transformed, and the log-determinant of this transform.

        **Arguments:**

        - `data`: one example, `(d,)`.

        **Returns:** `z`, `(d,)`, and the log-determinant, a scalar.
        """
        data = self._one("data", data)
        part, log_det = self.transform.forward_and_log_det(self._of(data))
        return self._put(data, part), log_det

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, " d"], Scalar]:
        """One vector with its columns transformed back, and the log-determinant of the forward map there.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(d,)`.

        **Returns:** the data, `(d,)`, and the log-determinant, a scalar.
        """
        z = self._one("z", z)
        part, log_det = self.transform.inverse_and_log_det(self._of(z))
        return self._put(z, part), log_det

    @checked
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, " d"]:
        """One vector with the `draw` of its columns.

        **Arguments:**

        - `data`: one example, `(d,)`.
        - `key`: one typed key. It is needed unless the transform is bijective.

        **Returns:** `z`, `(d,)`.
        """
        data = self._one("data", data)
        return self._put(data, self.transform.draw(self._of(data), key=key))

    @checked
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages d"], Float[Array, " preimages"]]:
        """One vector with each of the preimages of its columns.

        **Arguments:**

        - `data`: one example, `(d,)`.
        - `key`: one typed key, if the preimages are random.

        **Returns:** the points, `(num_preimages, d)`, and their log-weights, `(num_preimages,)`.
        """
        data = self._one("data", data)
        parts, log_weights = self.transform.preimages(self._of(data), key=key)
        return self._put(jnp.tile(data, (len(parts), 1)), parts), log_weights

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """The requirements of the transform on its columns.

        **Arguments:**

        - `data`: a batch, `(n, d)`.

        **Returns:** an iterator over tuples: the fault, the remedy, and a mask of the values without the fault.
        """
        columns = self._indices(data.shape[-1])
        for fault, remedy, right in self.transform.requirements(data[:, columns]):
            whole = np.ones(data.shape, bool)
            whole[:, columns] = right
            yield fault, remedy, whole

    def _one(self, name: str, array: Data) -> Float[Array, " d"]:
        array = as_floats(array)
        check_shape(name, array, (None,), "`OnColumns` is for vectors")
        return array

    def _indices(self, size: int) -> np.ndarray:
        indices = np.array([column + size if column < 0 else column for column in self.columns])
        if (indices < 0).any() or (indices >= size).any() or len(set(indices.tolist())) < len(indices):
            raise ValueError(
                f"`columns` is {self.columns} where the data have {size} columns: give the index of each once, from 0 "
                f"to {size - 1}"
            )
        return indices

    def _of(self, vector: Float[Array, " d"]) -> Float[Array, " columns"]:
        return vector[self._indices(vector.shape[-1])]

    def _put(self, vectors: Float[Array, "*batch d"], part: Float[Array, "*batch columns"]) -> Float[Array, "*batch d"]:
        return vectors.at[..., self._indices(vectors.shape[-1])].set(part)
