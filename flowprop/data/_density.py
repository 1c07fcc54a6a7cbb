"""What every toy density can do: be sampled, be evaluated, and classify as well as can be done."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from .._batch import in_batches
from .._types import PRNGKey, check_number, checked


#: Points evaluated at once: bounds the memory of a density that sums over hundreds of nodes for each point.
_CHUNK = 1024


class AbstractDensity(eqx.Module):
    """A mixture of classes, `p(z) = sum_k pi_k p(z | k)`, whose every term is known.

    A subclass says how points are drawn given their classes (`_draw`), and the log-density of one point under each
    class (`_class_log_prob`). The two must agree: `_draw` has exactly the density that `_class_log_prob` states.

    Parameters are static: a density has no leaves that an optimiser could train. Arrays come in JAX's default float
    type, or the type of the points given.
    """

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The number of coordinates of a point."""

    @property
    @abc.abstractmethod
    def priors(self) -> tuple[float, ...]:
        """The probability `pi_k` of each class."""

    @abc.abstractmethod
    def _draw(self, labels: Int[Array, " n"], key: PRNGKey) -> Float[Array, "n dim"]:
        """One point for each label."""

    @abc.abstractmethod
    def _class_log_prob(self, z: Float[Array, " dim"]) -> Float[Array, " classes"]:
        """`log p(z | k)` of one point for every class k."""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.priors)

    @checked
    def sample(self, n: int, *, key: PRNGKey) -> tuple[Float[Array, "{n} {self.dim}"], Int32[Array, "{n}"]]:
        """Draw independent points with their classes.

        **Arguments:**

        - `n`: how many.
        - `key`: a typed key; the same key gives the same points.

        **Returns:** points of shape `(n, dim)`, labels of shape `(n,)` in `0 ... num_classes - 1`.

        **Raises:** `ValueError` if `n` is negative.
        """
        if n < 0:
            raise ValueError(f"`n` is {n} where a number of points, 0 or more, is needed")
        return _sample(self, n, key)

    @checked
    def log_prob(self, z: Float[Array | np.ndarray, "*batch dim"]) -> Float[Array, "*batch"]:
        """The log-density `log p(z)`, in nats.

        **Arguments:**

        - `z`: one point `(dim,)`, or any number of leading axes.

        **Returns:** an array of the leading axes' shape.

        **Raises:** `ValueError` if the last axis of `z` is not `dim` long.
        """
        return jax.nn.logsumexp(_joint_log_prob(self, z), axis=-1)

    @checked
    def class_log_prob(self, z: Float[Array | np.ndarray, "*batch dim"]) -> Float[Array, "*batch {self.num_classes}"]:
        """The log-density given the class, `log p(z | k)`, in nats.

        **Arguments:**

        - `z`: one point `(dim,)`, or any number of leading axes.

        **Returns:** an array with one entry for each class k on its last axis.

        **Raises:** `ValueError` if the last axis of `z` is not `dim` long.
        """
        if z.shape[-1] != self.dim:
            wanted = f"(..., {self.dim})"
            raise ValueError(f"`z` has shape {z.shape} where {wanted} is needed: the last axis holds the coordinates")
        values = _each_point(self, jnp.asarray(z).reshape(-1, self.dim))
        return values.reshape(*z.shape[:-1], self.num_classes)

    @checked
    def bayes_classify(self, z: Float[Array | np.ndarray, "*batch dim"]) -> Int32[Array, "*batch"]:
        """The most probable class, `argmax_k pi_k p(z | k)`: no classifier is right more often.

        The accuracy that a classifier can reach is `jnp.mean(density.bayes_classify(points) == labels)`.

        **Arguments:**

        - `z`: one point `(dim,)`, or any number of leading axes.

        **Returns:** labels of the leading axes' shape (0 where no class has any density).

        **Raises:** `ValueError` if the last axis of `z` is not `dim` long.
        """
        return jnp.argmax(_joint_log_prob(self, z), axis=-1).astype(jnp.int32)


def check_positive_number(name: str, value: float) -> None:
    """Raise a `ValueError` unless `value` is positive and finite."""
    check_number(name, value, above=0, remedy="give a positive, finite number")


@eqx.filter_jit
def _sample(density: AbstractDensity, n: int, key: PRNGKey) -> tuple[Float[Array, "n dim"], Int32[Array, " n"]]:
    label_key, point_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, jnp.log(jnp.asarray(density.priors)), shape=(n,)).astype(jnp.int32)
    return density._draw(labels, point_key), labels


# Without jit the loop would be compiled anew at each call.
@eqx.filter_jit
def _each_point(density: AbstractDensity, points: Float[Array, "n dim"]) -> Float[Array, "n classes"]:
    return in_batches(density._class_log_prob, (points,), _CHUNK)


def _joint_log_prob(
    density: AbstractDensity, z: Float[Array | np.ndarray, "*batch dim"]
) -> Float[Array, "*batch classes"]:
    """`log pi_k + log p(z | k)`."""
    values = density.class_log_prob(z)
    return values + jnp.broadcast_to(jnp.log(jnp.asarray(density.priors, values.dtype)), values.shape)
