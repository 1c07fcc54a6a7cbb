"""Several transforms, one after another."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import PRNGKey, Scalar, checked
from .bijection import as_transform
from .parameters import Data
from .transform import AbstractTransform, Requirement, Shape


class Chain(AbstractTransform):
    """Several transforms, one after another: the first is applied to the data, the last returns `z`.

    The log-determinants add up.

    **Arguments:**

    - `transforms`: one or more transforms, or bijections with flowjax's methods, in the order in which they are applied
      to the data.

    **Raises:** `ValueError` if there are none, or if two are for examples of different shapes. `TypeError` for an
    argument that is not a transform.

    ```python
    import flowprop as fp
    import numpy as np

    incomes = np.exp(np.random.default_rng(0).normal(10.0, 0.5, size=(1000, 1)))
    transform = fp.Chain(fp.Positive(), fp.Standardise.fit(np.log(incomes)))
    print(round(float(transform.inverse(np.array([0.0]))[0]), -3))  # 22000.0
    ```
    """

    transforms: tuple[AbstractTransform, ...]

    def __init__(self, *transforms: Any) -> None:
        if not transforms:
            raise ValueError("`transforms` is empty: give one or more, in the order in which they are applied")
        self.transforms = tuple(as_transform(transform) for transform in transforms)
        shape: Shape = None
        for index, transform in enumerate(self.transforms):
            shape = _merge(shape, transform.shape, index)

    @property
    def is_bijective(self) -> bool:
        """Whether all of the transforms are bijective."""
        return all(transform.is_bijective for transform in self.transforms)

    @property
    def shape(self) -> Shape:
        """The shape of one example, from all of the transforms."""
        shape: Shape = None
        for index, transform in enumerate(self.transforms):
            shape = _merge(shape, transform.shape, index)
        return shape

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """One example through all of the transforms, and the sum of their log-determinants.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar.
        """
        first, *rest = self.transforms
        z, total = first.forward_and_log_det(data)
        for transform in rest:
            z, log_det = transform.forward_and_log_det(z)
            total = total + log_det
        return z, total

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """One `z` through all of the transforms from the last to the first, and the sum of their log-determinants.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        *rest, last = self.transforms
        data, total = last.inverse_and_log_det(z)
        for transform in reversed(rest):
            data, log_det = transform.inverse_and_log_det(data)
            total = total + log_det
        return data, total

    @checked
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """One example through the `draw` of all of the transforms.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key. It is needed unless all of the transforms are bijective.

        **Returns:** `z`, `(*shape)`.
        """
        first, *rest = self.transforms
        key, *keys = self._keys(key)
        z = first.draw(data, key=key)
        for transform, key in zip(rest, keys, strict=True):
            z = transform.draw(z, key=key)
        return z

    @checked
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages *shape"], Float[Array, " preimages"]]:
        """The preimages of the preimages. Their numbers multiply, and their log-weights add up.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key, if the preimages of one of the transforms are random.

        **Returns:** the points, `(num_preimages, *shape)`, and their log-weights, `(num_preimages,)`.
        """
        first, *rest = self.transforms
        key, *keys = self._keys(key)
        z, log_weights = first.preimages(data, key=key)
        for transform, key in zip(rest, keys, strict=True):
            z, log_weights = _preimages_of_each(transform, z, log_weights, key)
        return z, log_weights

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """The requirements of each transform on the values that it is given.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an iterator over tuples: the fault, the remedy, and a mask of the values without the fault.
        """
        for index, transform in enumerate(self.transforms):
            yield from transform.requirements(data)
            if index < len(self.transforms) - 1:
                data = np.asarray(jax.vmap(lambda one, part=transform: part.forward_and_log_det(one)[0])(data))

    def _keys(self, key: PRNGKey | None) -> list[PRNGKey | None]:
        num = len(self.transforms)
        return [None] * num if key is None else list(jax.random.split(key, num))


def _preimages_of_each(
    transform: AbstractTransform,
    z: Float[Array, "before *shape"],
    log_weights: Float[Array, " before"],
    key: PRNGKey | None,
) -> tuple[Float[Array, "after *shape"], Float[Array, " after"]]:
    if key is None:
        points, more = jax.vmap(lambda one: transform.preimages(one))(z)
    else:
        points, more = jax.vmap(lambda one, key: transform.preimages(one, key=key))(z, jax.random.split(key, len(z)))
    return points.reshape(-1, *z.shape[1:]), jnp.ravel(log_weights[:, None] + more)


def _merge(shape: Shape, other: Shape, index: int) -> Shape:
    """What two transforms know together of the shape of one example."""
    if shape is None or other is None:
        return other if shape is None else shape
    fits = len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape, other, strict=False)
    )
    if not fits:
        raise ValueError(
            f"`transforms[{index}]` is for examples of shape {other} where those before it are for {shape}: give all "
            "of them the shape of one example"
        )
    return tuple(b if a is None else a for a, b in zip(shape, other, strict=True))
