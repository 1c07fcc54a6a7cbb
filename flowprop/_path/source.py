"""The distribution in which a flow starts: Gaussian noise, another distribution, or data."""

import abc
import inspect
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._frozen import Frozen
from .._types import Point, PRNGKey, Scalar, check_positive, check_shape, checked, described, is_traced


class AbstractSource(eqx.Module):
    """The distribution of `z_0`, in the path's coordinates. Usual names: base distribution, prior, latent distribution.

    A source of your own defines `sample` and `log_prob`. Set `is_gaussian = True` only if it is `N(0, I)`: scores, SDEs
    and the evidence lower bound need that, and raise an error for any other source.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    class UniformSource(fp.AbstractSource):
        def sample(self, num_points, shape, *, key):
            return jax.random.uniform(key, (num_points, *shape), minval=-1, maxval=1)

        def log_prob(self, z0):
            inside = jnp.all(jnp.abs(z0) <= 1)
            return jnp.where(inside, -z0.size * jnp.log(2.0), -jnp.inf)

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,), source=UniformSource())
    ```
    """

    #: Whether the source is `N(0, I)`.
    is_gaussian: ClassVar[bool] = False

    @abc.abstractmethod
    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        """Independent points.

        **Arguments:**

        - `num_points`: how many points.
        - `shape`: the shape of one point, which is the flow's `shape`.
        - `key`: one typed key.

        **Returns:** the points, `(num_points, *shape)`.
        """

    @abc.abstractmethod
    def log_prob(self, z0: Point) -> Scalar:
        """The log-density at one point, in nats.

        **Arguments:**

        - `z0`: one point, of the flow's `shape`.

        **Returns:** a scalar.
        """


class GaussianSource(AbstractSource):
    """The standard normal distribution `N(0, I)`, the default source.

    Only with this source a flow has a score, a reverse SDE and an evidence lower bound.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    log_prob = fp.GaussianSource().log_prob(jnp.zeros(2))  # -log(2 pi)
    print(round(float(log_prob), 4))  # -1.8379
    ```
    """

    is_gaussian: ClassVar[bool] = True

    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        """Independent points from `N(0, I)`.

        **Arguments:**

        - `num_points`: how many points.
        - `shape`: the shape of one point, which is the flow's `shape`.
        - `key`: one typed key.

        **Returns:** the points, `(num_points, *shape)`.
        """
        return jax.random.normal(key, (num_points, *shape))

    def log_prob(self, z0: Point) -> Scalar:
        """The log-density at one point, in nats.

        **Arguments:**

        - `z0`: one point, of the flow's `shape`.

        **Returns:** a scalar.
        """
        return jax.scipy.stats.norm.logpdf(z0).sum()


class EmpiricalSource(AbstractSource):
    """The rows of a data set, each with the same probability: for a flow from data to data.

    This source has no density, and therefore the flow has no density either.

    **Arguments:**

    - `points`: `(rows, *shape)`, at least one row, in the path's coordinates. They are never trained.

    **Raises:** `ValueError` if there is no row, if a value is NaN or infinite, or, when the flow draws from it, if a
    row does not have the flow's shape.

    ```python
    import flowprop as fp
    import jax

    points, _ = fp.data.two_moons(100, key=jax.random.key(0))
    source = fp.EmpiricalSource(points)
    print(source.sample(5, (2,), key=jax.random.key(1)).shape)  # (5, 2)
    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(2))
    flow = fp.fm_flow(network, shape=(2,), source=source)
    ```
    """

    points: Frozen

    @checked
    def __init__(self, points: Float[Array | np.ndarray, "rows *shape"]) -> None:
        check_positive(points=len(points))
        with np.errstate(over="ignore"):
            array = jnp.asarray(points)
        if not is_traced(array):
            # Checked in the precision in which they are stored: a large float64 number is infinite in float32.
            wrong = np.flatnonzero(~np.isfinite(np.asarray(array, np.float64)).reshape(len(array), -1).all(axis=1))
            if wrong.size:
                raise ValueError(
                    f"`points` has NaN or infinity in {wrong.size} of {len(array)} rows (the first is row {wrong[0]}): "
                    "drop these rows"
                )
        self.points = Frozen(array)

    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        """Rows drawn with replacement.

        **Arguments:**

        - `num_points`: how many points.
        - `shape`: the shape of one point, which is the flow's `shape`.
        - `key`: one typed key.

        **Returns:** the points, `(num_points, *shape)`.

        **Raises:** `ValueError` if the rows of the data set do not have `shape`.
        """
        points = self.points.value
        check_shape("points", points, (None, *shape), "the source's rows have the flow's `shape`")
        # Half precision is for storage only: a solver needs more digits.
        return points[jax.random.randint(key, (num_points,), 0, len(points))].astype(float)

    def log_prob(self, z0: Point) -> Scalar:
        """Raises an error, because the rows of a data set have no density.

        **Arguments:**

        - `z0`: one point, of the flow's `shape`.

        **Returns:** nothing.

        **Raises:** `ValueError` always.
        """
        raise ValueError(
            "`source` is an EmpiricalSource, which has no density: a likelihood needs a source that has one, such as "
            "`fp.GaussianSource()`"
        )


@runtime_checkable
class _Distribution(Protocol):
    """The two methods that the distributions of flowjax, NumPyro and distrax share."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Random points."""

    def log_prob(self, *args: Any, **kwargs: Any) -> Any:
        """The log-density at a point."""


@runtime_checkable
class _WithEventShape(Protocol):
    event_shape: Any


@runtime_checkable
class _WithShape(Protocol):
    shape: Any


class DistributionSource(AbstractSource):
    """A distribution of flowjax, NumPyro or distrax, or of [`flowprop.as_distribution`][], as the source of a flow.

    The flow then transports this distribution to the data. Its likelihood is exact,
    `log p(z_1) = log q(z_0) - int div v dt`, where `q` is the density of the distribution. For a flow with a transform,
    the distribution is in the path's coordinates, after the transform. Scores, SDEs and the evidence lower bound raise
    an error, even if the distribution is `N(0, I)`: use [`flowprop.GaussianSource`][] for these.

    The parameters of the distribution are not trained: the loss of flow matching has no useful gradient in them.

    **Arguments:**

    - `distribution`: a continuous distribution of one point, without a condition. It has `log_prob(z0)`, either
      `sample(key, sample_shape)` or `sample(seed=key, sample_shape=...)`, and either `shape` or `event_shape`.

    **Raises:** `TypeError` for an object without these methods or for a discrete distribution; `ValueError` for a
    distribution with a batch shape or a condition, or whose methods return other shapes than they should and, when the
    flow draws from it, if the distribution does not have the flow's shape.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp
    from flowjax.distributions import StudentT

    heavy_tails = fp.DistributionSource(StudentT(5.0 * jnp.ones(2)))
    print(heavy_tails.sample(5, (2,), key=jax.random.key(0)).shape)  # (5, 2)
    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(1))
    flow = fp.fm_flow(network, shape=(2,), source=heavy_tails)
    ```
    """

    # The distribution is stored as its leaves, because some distributions are not PyTrees after their arrays are
    # replaced.
    leaves: tuple[Any, ...]
    structure: Any = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, distribution: Any) -> None:
        self.shape = _event_shape(distribution)
        leaves, self.structure = jax.tree.flatten(distribution)
        self.leaves = tuple(map(_frozen, leaves))
        # Only the shapes are used, so any key works.
        any_key = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl="threefry2x32")
        points = jax.eval_shape(lambda key: self._draw(3, key), any_key)
        if not jnp.issubdtype(points.dtype, jnp.floating):
            raise TypeError(
                f"`distribution` is {described(distribution)}, which draws {points.dtype} numbers where floating-point "
                "ones are needed: give a continuous distribution"
            )
        value = jax.eval_shape(self.distribution.log_prob, jax.ShapeDtypeStruct(self.shape, points.dtype))
        if (points.shape, value.shape) != ((3, *self.shape), ()):
            raise ValueError(
                f"`distribution` is {described(distribution)} that draws 3 points of shape {self.shape} as an array of "
                f"shape {points.shape} with a `log_prob` of shape {value.shape} for each: (3, *shape) and () are needed"
            )

    @property
    def distribution(self) -> Any:
        """The distribution. No gradient flows into its parameters."""
        values = [leaf.value if isinstance(leaf, Frozen) else leaf for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, values)

    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        """Points drawn by the distribution's own `sample`.

        **Arguments:**

        - `num_points`: how many points.
        - `shape`: the shape of one point, which is the flow's `shape`.
        - `key`: one typed key.

        **Returns:** the points, `(num_points, *shape)`.

        **Raises:** `ValueError` unless the shape of the distribution is `shape`.
        """
        if self.shape != shape:
            raise ValueError(
                f"`distribution` of the source has shape {self.shape} where the flow's `shape` is {shape}: give a "
                "distribution of the flow's shape"
            )
        return self._draw(num_points, key).astype(float)

    def log_prob(self, z0: Point) -> Scalar:
        """The log-density at one point, in nats.

        **Arguments:**

        - `z0`: one point, of the flow's `shape`.

        **Returns:** a scalar.

        **Raises:** `ValueError` if `z0` does not have the shape of the distribution.
        """
        check_shape("z0", z0, self.shape, "the shape of the source's distribution")
        return jnp.asarray(self.distribution.log_prob(z0)).astype(z0.dtype)

    def _draw(self, num_points: int, key: PRNGKey) -> Array:
        distribution = self.distribution
        if "seed" in inspect.signature(distribution.sample).parameters:
            return jnp.asarray(distribution.sample(seed=key, sample_shape=(num_points,)))
        return jnp.asarray(distribution.sample(key, (num_points,)))


def _frozen(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | np.generic):
        leaf = jnp.asarray(leaf)
    return Frozen(leaf) if eqx.is_inexact_array(leaf) else leaf


def _event_shape(distribution: Any) -> tuple[int, ...]:
    """The shape of one point, or an error that says why the object is not a distribution of one point."""
    came = described(distribution)
    is_class, has_event_shape = isinstance(distribution, type), isinstance(distribution, _WithEventShape)
    has_methods = isinstance(distribution, _Distribution)
    if is_class or not has_methods or not (has_event_shape or isinstance(distribution, _WithShape)):
        remedy = f": make one, `{distribution.__name__}(...)`" if is_class else ""
        raise TypeError(
            f"`distribution` is {came} where a distribution of flowjax, NumPyro or distrax is needed, or an object "
            f"with their `sample`, `log_prob` and `event_shape` or `shape`{remedy}"
        )
    condition = getattr(distribution, "cond_shape", None)
    if condition is not None:
        raise ValueError(
            f"`distribution` is {came} with a condition of shape {condition}: give a distribution without a condition"
        )
    batch_shape = tuple(getattr(distribution, "batch_shape", ()))
    if batch_shape != ():
        raise ValueError(
            f"`distribution` is {came} of batch shape {batch_shape}, several distributions where one is needed: join "
            "them with `.to_event()` in NumPyro or `Independent` in distrax"
        )
    return tuple(distribution.event_shape if has_event_shape else distribution.shape)
