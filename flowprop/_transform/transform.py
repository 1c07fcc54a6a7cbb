"""What a transform is, what follows from its few methods, and the transform that changes nothing."""

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


#: The shape of one example, in which `None` stands for any size; `None` alone for any shape.
Shape = tuple[int | None, ...] | None
#: What is wrong with a value, what to do, and which entries of a batch are right.
Requirement = tuple[str, str, Bool[np.ndarray, "batch *shape"]]


class AbstractTransform(eqx.Module):
    """A map from data, in the user's units, to the coordinates `z` of a flow, in which the noise is `N(0, I)`.

    The density in the user's units is `log p(data) = log q(z) + log |dz/ddata|`, where `q` is the density in the
    flow's coordinates. Some transforms are not bijective: one data point has several `z`, or a range of them. Then
    `draw` gives one of them at random, which is what the flow is trained on, and `preimages` gives what the
    likelihood is summed over.

    Nothing in a transform is trained. A transform is also a function of one array, the same as `forward`, so that it
    can encode a condition. For your own bijective transform, use [`flowprop.AbstractBijectiveTransform`][], or give
    the flow any object that has the methods of a [flowjax](https://danielward27.github.io/flowjax/) bijection.
    """

    #: Whether data are in the flow's coordinates already.
    is_identity: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def is_bijective(self) -> bool:
        """Whether every data point has exactly one `z`."""

    @property
    @abc.abstractmethod
    def shape(self) -> Shape:
        """The shape of one example, with `None` for a size that may be any; `None` alone if any shape will do."""

    @abc.abstractmethod
    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """One example to `z`, and `log |dz/ddata|`, which is minus infinity outside of the support."""

    @abc.abstractmethod
    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """One `z` to data, and `log |dz/ddata|` there: that of `forward`, computed from `z`."""

    @abc.abstractmethod
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """One of the `z` of one example: what a flow is trained on. `key` is needed unless `is_bijective`."""

    @abc.abstractmethod
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages *shape"], Float[Array, " preimages"]]:
        """Points `z_j` and weights such that `log p(data) = logsumexp_j(log q(z_j) + log_weights_j)`."""

    @abc.abstractmethod
    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """For a batch: what is wrong with a value, the remedy, and a mask of the values that are right."""

    @checked
    def forward(self, data: Data) -> Float[Array, "*shape"]:
        """Data to `z`.

        **Arguments:**

        - `data`: one example. If the transform knows the shape of an example, also a batch of them, `(n, *shape)`.
          With scalar parameters a transform does not know it, and takes what it is given as one example.

        **Returns:** `z`, of the same shape.

        **Raises:** `ValueError` for a shape that does not fit.
        """
        return self._map(lambda one: self.forward_and_log_det(one)[0], data)

    @checked
    def inverse(self, z: Data) -> Float[Array, "*shape"]:
        """`z` to data.

        **Arguments:**

        - `z`: one point or a batch of them, as in `forward`.

        **Returns:** data, of the same shape.

        **Raises:** `ValueError` for a shape that does not fit.
        """
        return self._map(lambda one: self.inverse_and_log_det(one)[0], z)

    @checked
    def log_det(self, data: Data) -> Float[Array, "*batch"]:
        """`log |dz/ddata|`, by which the log-density changes.

        **Arguments:**

        - `data`: one example or a batch of them, as in `forward`.

        **Returns:** a scalar for one example, `(n,)` for a batch. Minus infinity outside of the support.

        **Raises:** `ValueError` for a shape that does not fit.
        """
        return self._map(lambda one: self.forward_and_log_det(one)[1], data)

    def __call__(self, data: Data) -> Float[Array, "*shape"]:
        """The same as `forward`."""
        return self.forward(data)

    def check_data(self, name: str, data: np.ndarray) -> None:
        """Raise a `ValueError`, which names column and rows, unless a flow can be trained on this data.

        **Arguments:**

        - `name`: what the user calls the data.
        - `data`: a whole batch, `(n, *shape)`.
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
        """Raise a `ValueError` unless the transform takes one example of `shape` and returns one of the same shape.

        **Arguments:**

        - `name`: of the argument that holds the transform.
        - `shape`: of one example.
        """
        if self.shape is not None and not _fits(shape, self.shape):
            raise ValueError(
                f"`{name}` is for examples of shape {self.shape} where the flow's `shape` is {shape}: make it for that "
                "shape"
            )
        one = jax.ShapeDtypeStruct(shape, jnp.float32)
        z, log_det = jax.eval_shape(self.forward_and_log_det, one)
        if (z.shape, log_det.shape) != (shape, ()):
            raise ValueError(
                f"`{name}` makes shape {z.shape} and a `log_det` of shape {log_det.shape} of one example of shape "
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

    A class of your own defines `shape`, `forward_and_log_det`, `inverse_and_log_det` and `requirements`:

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
    ```
    """

    @property
    def is_bijective(self) -> bool:
        """True."""
        return True

    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """The one `z` of this example. `key` is not used."""
        return self.forward_and_log_det(data)[0]

    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "1 *shape"], Float[Array, " 1"]]:
        """The one `z` of this example, with `log |dz/ddata|` as its weight. `key` is not used."""
        z, log_det = self.forward_and_log_det(data)
        return z[None], log_det[None]


class IdentityTransform(AbstractBijectiveTransform):
    """The transform that changes nothing: data in the coordinates of the flow already.

    ```python
    import flowprop as fp

    fp.IdentityTransform().forward(2.0)  # 2.0
    ```
    """

    is_identity: ClassVar[bool] = True

    @property
    def shape(self) -> Shape:
        """`None`: any shape will do."""
        return None

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The example itself, and 0."""
        z = as_floats(data)
        return z, jnp.zeros((), z.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The point itself, and 0."""
        return self.forward_and_log_det(z)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """None."""
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
