"""The interface of a transform, the methods that follow from it, and the transform that changes nothing."""

import abc
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._types import PRNGKey, Scalar, check_key, check_shape, checked
from .parameters import Data, as_floats, name_entries


#: The shape of one example, in which `None` stands for any size. Instead of a tuple, `None` stands for any shape.
Shape = tuple[int | None, ...] | None
#: The fault in words, the remedy in words, and a mask of the values of a batch without the fault.
Requirement = tuple[str, str, Bool[np.ndarray, "batch *shape"]]


class AbstractTransform(eqx.Module):
    """A map from data in the user's units to the coordinates `z` of a flow, in which the noise is `N(0, I)`.

    The density in the user's units is `log p(data) = log q(z) + log |dz/ddata|`, where `q` is the density in the flow's
    coordinates. Some transforms are not bijective: one data point has several `z`, or a continuous range of them. For
    such a transform, `draw` returns one `z` at random, on which the flow is trained, and `preimages` returns the points
    over which the likelihood is summed.

    Nothing in a transform is trained. A transform can also be called as a function of one array, the same as `forward`,
    so it can encode a condition. For your own bijective transform, use [`flowprop.AbstractBijectiveTransform`][], or
    give the flow any object that has the methods of a [flowjax](https://danielward27.github.io/flowjax/) bijection. For
    a transform that is not bijective, define all abstract methods.
    """

    #: Whether the data are already in the flow's coordinates.
    is_identity: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def is_bijective(self) -> bool:
        """Whether every data point has exactly one `z`."""

    @property
    @abc.abstractmethod
    def shape(self) -> Shape:
        """The shape of one example, with `None` for an arbitrary size; `None` if the whole shape is arbitrary."""

    @abc.abstractmethod
    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """One example to `z`, and `log |dz/ddata|`.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar: minus infinity outside the support.
        """

    @abc.abstractmethod
    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """One `z` to data, and `log |dz/ddata|` there.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar: the same quantity as that of
        `forward_and_log_det`, computed from `z`.
        """

    @abc.abstractmethod
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """One of the `z` of one example, at random. A flow is trained on it.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key. It is needed unless `is_bijective`.

        **Returns:** `z`, `(*shape)`.
        """

    @abc.abstractmethod
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages *shape"], Float[Array, " preimages"]]:
        """Points `z_j` and weights such that `log p(data) = logsumexp_j(log q(z_j) + log_weights_j)`.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key, for a transform whose preimages are random.

        **Returns:** the points, `(num_preimages, *shape)`, and their log-weights, `(num_preimages,)`.
        """

    @abc.abstractmethod
    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """The requirements on the values of a batch of data. `fit` checks them before training.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an iterator over tuples: the fault in words, the remedy in words, and a mask `(n, *shape)`, or
        `(n,)`, of the values without the fault.
        """

    @checked
    def forward(self, data: Data) -> Float[Array, "*shape"]:
        """Data to `z`.

        **Arguments:**

        - `data`: one example, `(*shape)`. If the transform knows the shape of an example, also a batch, `(n, *shape)`.
          A transform with scalar parameters does not know it, and treats any array as one example.

        **Returns:** `z`, of the same shape.

        **Raises:** `ValueError` for a shape that does not fit.
        """
        return self._map(lambda one: self.forward_and_log_det(one)[0], data)

    @checked
    def inverse(self, z: Data) -> Float[Array, "*shape"]:
        """`z` to data.

        **Arguments:**

        - `z`: one point, `(*shape)`. If the transform knows the shape of an example, also a batch, `(n, *shape)`.

        **Returns:** data, of the same shape.

        **Raises:** `ValueError` for a shape that does not fit.
        """
        return self._map(lambda one: self.inverse_and_log_det(one)[0], z)

    @checked
    def log_det(self, data: Data) -> Float[Array, "*batch"]:
        """`log |dz/ddata|`, the change of the log-density.

        **Arguments:**

        - `data`: one example, `(*shape)`. If the transform knows the shape of an example, also a batch, `(n, *shape)`.

        **Returns:** a scalar for one example, `(n,)` for a batch. Minus infinity outside the support.

        **Raises:** `ValueError` for a shape that does not fit.
        """
        return self._map(lambda one: self.forward_and_log_det(one)[1], data)

    def __call__(self, data: Data) -> Float[Array, "*shape"]:
        """The same as `forward`.

        **Arguments:**

        - `data`: one example, or a batch of them if the transform knows the shape of an example.

        **Returns:** `z`, of the same shape.
        """
        return self.forward(data)

    def check_data(self, name: str, data: np.ndarray) -> None:
        """Raise a `ValueError`, with the column and the rows, unless a flow can be trained on this data.

        **Arguments:**

        - `name`: the name of the data in the error message.
        - `data`: a whole batch, `(n, *shape)`.

        **Raises:** `ValueError` for a shape that does not fit, or for values that the transform cannot take.
        """
        if self.shape is not None:
            check_shape(name, data, (None, *self.shape), "a batch axis, then the shape that `transform` is for")
        for fault, remedy, right in self.requirements(data):
            if right.all():
                continue
            rows = np.unique(np.argwhere(~right)[:, 0])
            entries = f"{name_entries(np.asarray(~right.all(axis=0)))}, " if right.ndim > 1 else ""
            listed = ", ".join(str(row) for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
            raise ValueError(f"`{name}` has {fault} ({entries}{len(rows)} of {len(right)} rows: {listed}): {remedy}")

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise a `ValueError` unless the transform maps one example of `shape` to the same shape.

        **Arguments:**

        - `name`: the name of the argument that holds the transform.
        - `shape`: the shape of one example.

        **Raises:** `ValueError` if the transform is for another shape, or changes the shape.
        """
        if self.shape is not None and not _fits(shape, self.shape):
            raise ValueError(
                f"`{name}` is for examples of shape {self.shape} where the flow's `shape` is {shape}: make one for "
                "that shape"
            )
        one = jax.ShapeDtypeStruct(shape, jnp.float32)
        z, log_det = jax.eval_shape(self.forward_and_log_det, one)
        if (z.shape, log_det.shape) != (shape, ()):
            raise ValueError(
                f"`{name}` returns shape {z.shape} and a `log_det` of shape {log_det.shape} for one example of shape "
                f"{shape}: give a transform that keeps the shape and returns a scalar `log_det`"
            )

    def _map(self, function: Callable[[Array], Array], data: Any) -> Array:
        """`function` over the leading axes of `data`, if the transform knows how many there are."""
        data = jnp.asarray(data)
        if self.shape is not None:
            if data.ndim < len(self.shape):
                check_shape("data", data, self.shape, "the shape of one example, after any batch axes")
            for _ in range(data.ndim - len(self.shape)):
                function = jax.vmap(function)
        return function(data)


class AbstractBijectiveTransform(AbstractTransform):
    """A transform under which every data point has exactly one `z`.

    A transform of your own defines `shape`, `forward_and_log_det`, `inverse_and_log_det` and `requirements`.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax.numpy as jnp

    class Sinh(fp.AbstractBijectiveTransform):
        shape: tuple | None = eqx.field(static=True, default=None)

        def forward_and_log_det(self, data):
            return jnp.arcsinh(data), -0.5 * jnp.sum(jnp.log1p(data**2))

        def inverse_and_log_det(self, z):
            return jnp.sinh(z), -jnp.sum(jnp.log(jnp.cosh(z)))

        def requirements(self, data):
            yield from ()

    points = jnp.array([0.0, 10.0])
    print(Sinh().forward(points).round(4))  # [0.     2.9982]
    print(Sinh().inverse(Sinh().forward(points)).round(3))  # [ 0. 10.]
    ```
    """

    @property
    def is_bijective(self) -> bool:
        """True."""
        return True

    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """The only `z` of this example.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: not used.

        **Returns:** `z`, `(*shape)`.
        """
        return self.forward_and_log_det(data)[0]

    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "1 *shape"], Float[Array, " 1"]]:
        """The only `z` of this example, with `log |dz/ddata|` as its log-weight.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: not used.

        **Returns:** the point, `(1, *shape)`, and its log-weight, `(1,)`.
        """
        z, log_det = self.forward_and_log_det(data)
        return z[None], log_det[None]


class IdentityTransform(AbstractBijectiveTransform):
    """The transform that changes nothing: the data are already in the coordinates of the flow.

    ```python
    import flowprop as fp

    print(fp.IdentityTransform().forward(2.0))  # 2.0
    ```
    """

    is_identity: ClassVar[bool] = True

    @property
    def shape(self) -> Shape:
        """`None`: the shape is arbitrary."""
        return None

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The example itself, and 0.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar.
        """
        z = as_floats(data)
        return z, jnp.zeros((), z.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The point itself, and 0.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        return self.forward_and_log_det(z)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """No requirements.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an empty iterator.
        """
        yield from ()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))


def log_sum_over_preimages(log_q: Float[Array, " preimages"], log_weights: Float[Array, " preimages"]) -> Scalar:
    """`logsumexp_j(log q(z_j) + log_weights_j)`, with gradients that are finite where the density is zero."""
    terms = log_q + log_weights
    if terms.shape == (1,):
        return terms[0]
    nowhere = jnp.all(terms == -jnp.inf)
    return jnp.where(nowhere, -jnp.inf, jax.nn.logsumexp(jnp.where(nowhere, 0.0, terms)))


def required_key(key: PRNGKey | None, transform: str, what: str) -> PRNGKey:
    """The key, or a `ValueError` if there is none."""
    if key is None:
        raise ValueError(f"`key` is None where {transform} draws {what} at random: give `jax.random.key(seed)`")
    check_key("key", key)
    return key
