"""The interface of all toy densities: samples, log-densities, and the best possible classification."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from .._batch import in_batches
from .._types import PRNGKey, check_number, checked


#: The number of points evaluated at once. It limits memory, because some densities sum over hundreds of nodes a point.
_CHUNK = 1024


class AbstractDensity(eqx.Module):
    """The base class of densities with classes, `p(z) = sum_k pi_k p(z | k)`, in which every term is known.

    A class of your own defines two properties and two methods:

    - `dim`: the number of coordinates of a point.
    - `priors`: the probability `pi_k` of each class, a tuple.
    - `_draw(labels, key)`: draws one point for each label, an array of shape `(n, dim)`.
    - `_class_log_prob(z)`: the log-density `log p(z | k)` of one point for every class, a vector.

    `_draw` must sample exactly from the density that `_class_log_prob` computes.

    Parameters are static, so that an optimiser finds nothing to train. Samples have JAX's default floating-point dtype;
    log-densities have the dtype of the given points.
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
        """Draws one point for each label."""

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

        - `n`: the number of points.
        - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

        **Returns:** points of shape `(n, dim)`, and labels of shape `(n,)` in `0 ... num_classes - 1`.

        **Raises:** `ValueError` if `n` is negative.
        """
        if n < 0:
            raise ValueError(f"`n` is {n}: give a number of points, 0 or more")
        return _sample(self, n, key)

    @checked
    def log_prob(self, z: Float[Array | np.ndarray, "*batch dim"]) -> Float[Array, "*batch"]:
        """The log-density `log p(z)`, in nats.

        **Arguments:**

        - `z`: one point `(dim,)`, or points with any number of leading axes.

        **Returns:** an array of the shape of the leading axes.

        **Raises:** `ValueError` if the last axis of `z` is not `dim` long.
        """
        return jax.nn.logsumexp(_joint_log_prob(self, z), axis=-1)

    @checked
    def class_log_prob(self, z: Float[Array | np.ndarray, "*batch dim"]) -> Float[Array, "*batch {self.num_classes}"]:
        """The log-density given the class, `log p(z | k)`, in nats.

        **Arguments:**

        - `z`: one point `(dim,)`, or points with any number of leading axes.

        **Returns:** an array with one entry for each class on its last axis, after the leading axes.

        **Raises:** `ValueError` if the last axis of `z` is not `dim` long.
        """
        if z.shape[-1] != self.dim:
            wanted = f"(..., {self.dim})"
            raise ValueError(f"`z` has shape {z.shape} where {wanted} is needed: the last axis holds the coordinates")
        values = _each_point(self, jnp.asarray(z).reshape(-1, self.dim))
        return values.reshape(*z.shape[:-1], self.num_classes)

    @checked
    def bayes_classify(self, z: Float[Array | np.ndarray, "*batch dim"]) -> Int32[Array, "*batch"]:
        """The most probable class, `argmax_k pi_k p(z | k)` (Bayes classifier).

        No classifier has a higher expected accuracy. Estimate the highest possible accuracy by
        `jnp.mean(density.bayes_classify(points) == labels)`.

        **Arguments:**

        - `z`: one point `(dim,)`, or points with any number of leading axes.

        **Returns:** labels of the shape of the leading axes (0 if the density of every class is 0).

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


# Without jit, every call would compile the loop again.
@eqx.filter_jit
def _each_point(density: AbstractDensity, points: Float[Array, "n dim"]) -> Float[Array, "n classes"]:
    return in_batches(density._class_log_prob, (points,), _CHUNK)


def _joint_log_prob(
    density: AbstractDensity, z: Float[Array | np.ndarray, "*batch dim"]
) -> Float[Array, "*batch classes"]:
    """`log pi_k + log p(z | k)`."""
    values = density.class_log_prob(z)
    return values + jnp.broadcast_to(jnp.log(jnp.asarray(density.priors, values.dtype)), values.shape)
