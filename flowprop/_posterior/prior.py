"""Priors: the uniform distribution on a box, and the interface in which a posterior uses any distribution."""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from .._frozen import Frozen
from .._path.source import DistributionSource
from .._transform import Bounded
from .._types import Point, Scalar, check_key, checked


class BoxUniform(eqx.Module):
    """The uniform distribution on a box, `low <= theta <= high` in every coordinate: a prior.

    It has the interface of the distributions of NumPyro and flowjax. Its log-density is `-sum log(high - low)` inside,
    with the bounds, and minus infinity outside.

    **Arguments:**

    - `low`: the lower bound of each parameter, an array of the shape of `theta`, or a number for all of them.
    - `high`: the upper bound, in the same form. If both are numbers, `theta` is one number.

    **Raises:** `ValueError` for bounds that are not finite, a `low` that is not below `high`, or two shapes that
    differ.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    prior = fp.BoxUniform(jnp.array([-1.0, 0.0]), jnp.array([1.0, 10.0]))
    print(prior.sample(jax.random.key(0), (5,)).shape)  # (5, 2)
    print(f"{prior.log_prob(jnp.array([0.5, 3.0])):.3f}")  # -2.996
    print(prior.in_support(jnp.array([[0.5, 3.0], [0.5, 11.0]])))  # [ True False]
    ```
    """

    bounds: tuple[Frozen, Frozen]

    def __init__(self, low: Any, high: Any) -> None:
        box = Bounded(low, high)
        shape = () if box.shape is None else box.shape
        self.bounds = (
            Frozen(jnp.broadcast_to(box.low.array, shape)),
            Frozen(jnp.broadcast_to(box.high.array, shape)),
        )

    @property
    def low(self) -> Float[Array, "*shape"]:
        """The lower bounds."""
        return self.bounds[0].value

    @property
    def high(self) -> Float[Array, "*shape"]:
        """The upper bounds."""
        return self.bounds[1].value

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.bounds[0].array.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Always `()`, because this is a single distribution."""
        return ()

    @checked
    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw points.

        **Arguments:**

        - `key`: a key, `jax.random.key(seed)`.
        - `sample_shape`: how many points to draw, as a shape. By default `()`, one point.

        **Returns:** points, `(*sample_shape, *shape)`.
        """
        shape = (*sample_shape, *self.event_shape)
        # `uniform` leaves out its upper end, but rounding may add a little more than the width.
        points = jax.random.uniform(key, shape, minval=self._to(self.low, shape), maxval=self._to(self.high, shape))
        return jnp.minimum(points, self._to(self.high, shape))

    @checked
    def log_prob(self, theta: ArrayLike | list | tuple) -> Float[Array, "..."]:
        """Compute the log-density in nats.

        **Arguments:**

        - `theta`: one point, or an array of points, `(*batch, *shape)`.

        **Returns:** log-densities of shape `batch`: minus infinity outside of the box.

        **Raises:** `ValueError` if the last axes of `theta` are not the shape of one point.
        """
        inside = self.in_support(theta)
        return jnp.where(inside, -jnp.sum(jnp.log(self.high - self.low)), -jnp.inf)

    @checked
    def in_support(self, theta: ArrayLike | list | tuple) -> Bool[Array, "..."]:
        """Tell which points lie in the box. The bounds belong to it, and NaN does not.

        **Arguments:**

        - `theta`: one point, or an array of points, `(*batch, *shape)`.

        **Returns:** Booleans of shape `batch`.

        **Raises:** `ValueError` if the last axes of `theta` are not the shape of one point.
        """
        points = jnp.asarray(theta, float)
        axes = tuple(range(len(check_points("theta", points, self.event_shape)), points.ndim))
        low, high = self._to(self.low, points.shape), self._to(self.high, points.shape)
        return jnp.all((points >= low) & (points <= high), axis=axes)

    def _to(self, bound: Float[Array, "*shape"], shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(bound, shape)


@runtime_checkable
class _WithSupport(Protocol):
    in_support: Callable[[Any], Any]


class Prior(eqx.Module):
    """A distribution of another library as the prior of a [`flowprop.Posterior`][], with its support.

    A finite point lies in the support if the log-density there is finite, and if the distribution itself says so: by
    `in_support`, as [`flowprop.BoxUniform`][] has it, or by `support`, as the distributions of NumPyro have it.

    **Arguments:**

    - `distribution`: a continuous distribution of one point, without a condition: of flowjax, NumPyro or distrax, or
      any object with `log_prob(theta)`, either `sample(key, sample_shape)` or `sample(seed=key, sample_shape=...)`, and
      either `shape` or `event_shape`.

    **Raises:** `TypeError` for an object without these methods, or a discrete distribution; `ValueError` for a
    distribution with a batch shape or a condition.

    ```python
    import flowprop as fp
    import jax.numpy as jnp
    import numpyro.distributions as dist

    prior = fp.Prior(dist.LogNormal(jnp.zeros(2), 0.5).to_event(1))
    print(prior.in_support(jnp.array([[0.5, 3.0], [0.5, -1.0]])))  # [ True False]
    ```
    """

    source: DistributionSource

    def __init__(self, distribution: Any) -> None:
        self.source = DistributionSource(distribution)

    @property
    def distribution(self) -> Any:
        """The distribution itself."""
        return self.source.distribution

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.source.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Always `()`, because this is a single distribution."""
        return ()

    @checked
    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw points.

        **Arguments:**

        - `key`: a typed key, `jax.random.key(seed)`.
        - `sample_shape`: how many points to draw, as a shape. By default `()`, one point.

        **Returns:** points, `(*sample_shape, *shape)`.
        """
        check_key("key", key)
        points = self.source.sample(math.prod(sample_shape), self.event_shape, key=key)
        return points.reshape(*sample_shape, *self.event_shape)

    @checked
    def log_prob(self, theta: ArrayLike | list | tuple) -> Float[Array, "..."]:
        """Compute the log-density in nats.

        **Arguments:**

        - `theta`: one point, or an array of points, `(*batch, *shape)`.

        **Returns:** log-densities of shape `batch`: minus infinity outside of the support.

        **Raises:** `ValueError` if the last axes of `theta` are not the shape of one point.
        """
        return self._of_each(theta, lambda point: self._of(point)[0])

    @checked
    def in_support(self, theta: ArrayLike | list | tuple) -> Bool[Array, "..."]:
        """Tell which points lie in the support.

        **Arguments:**

        - `theta`: one point, or an array of points, `(*batch, *shape)`.

        **Returns:** Booleans of shape `batch`.

        **Raises:** `ValueError` if the last axes of `theta` are not the shape of one point.
        """
        return self._of_each(theta, lambda point: self._of(point)[1])

    def _of(self, point: Point) -> tuple[Scalar, Bool[Array, ""]]:
        """The log-density at one point, and whether the point lies in the support."""
        distribution = self.distribution
        value = self.source.log_prob(point)
        inside = jnp.isfinite(value) & jnp.all(jnp.isfinite(point))
        says = distribution.in_support if isinstance(distribution, _WithSupport) else None
        says = getattr(distribution, "support", None) if says is None else says
        if callable(says):
            inside &= jnp.all(says(point))
        return jnp.where(inside, value, -jnp.inf), inside

    def _of_each(self, theta: Any, function: Callable[[Point], Array]) -> Array:
        points = jnp.asarray(theta, float)
        batch = check_points("theta", points, self.event_shape)
        return jax.vmap(function)(points.reshape(math.prod(batch), *self.event_shape)).reshape(batch)


#: A prior with its support.
WithSupport = BoxUniform | Prior


def as_prior(distribution: Any) -> WithSupport:
    """The distribution itself if it has a support in this sense, and otherwise the `Prior` of it."""
    return distribution if isinstance(distribution, WithSupport) else Prior(distribution)


def check_points(name: str, points: Array | np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes before `shape`, or raise a `ValueError` if the last axes of `points` are not `shape`."""
    batch = points.shape[: points.ndim - len(shape)]
    if points.ndim < len(shape) or points.shape != (*batch, *shape):
        raise ValueError(
            f"`{name}` has shape {points.shape} where {shape} is needed: give one point, or axes of points before it"
        )
    return batch
