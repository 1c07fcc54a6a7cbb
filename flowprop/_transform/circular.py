"""The transform for angles, and other periodic data."""

import itertools
import math
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._frozen import Frozen
from .._types import PRNGKey, Scalar, check_shape, checked
from .parameters import Data, Numbers, as_floats, freeze, like, parameter, same_shape, sum_of, widen
from .transform import AbstractTransform, Requirement, Shape, required_key


#: The standard deviation of a uniform angle, lifted to the line by `draw`, in periods.
_STD = math.sqrt(1 / 3 - 2 / math.pi**2)
_MOST_COORDINATES = 5


class Circular(AbstractTransform):
    """Angles, and other periodic data.

    A flow has a density on the line, where an angle `theta` is at all of the points `theta + k period` for integers
    `k`. A density `q` on the line gives the density of the angle by wrapping the line around the circle,

    `p(theta) = sum_k q(theta + k period)`

    ([Mardia & Jupp 2000](https://doi.org/10.1002/9780470316979), section 3.5.7), which is periodic for every `q`. In
    training, an angle is put at one of the two of its points that lie within a period of the centre of the interval.
    The point at a distance `u` from the centre is drawn with the probability `cos^2(pi u / (2 period))`; the two
    probabilities add up to 1. So the density on the line falls to zero smoothly on both sides, and the circle is not
    cut anywhere. Finally, the points are divided by 0.3615 periods, the standard deviation of uniform angles that are
    drawn in this way.

    The sum is taken over the three points nearest to the centre, for every coordinate. A likelihood therefore needs
    `3^d` evaluations of the flow, with `d` at most 5. Density further than 1.5 periods from the centre (4.1 in the
    flow's coordinates) is not counted; in training, no point is further away than 1 period.

    **Arguments:**

    - `period`: an array of the shape of one example, or a number for all coordinates. Positive.
    - `low`: the lower end of the interval `[low, low + period)` of the samples, in the same form. By default
      `-period / 2`.

    **Raises:** `ValueError` for a `period` that is not positive, numbers that are not finite, or two shapes that
    differ.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    # The first coordinate is an angle, the second is not.
    transform = fp.OnColumns((0,), fp.Circular(2 * jnp.pi))
    print(transform.inverse(jnp.array([3.0, 1.0])).round(3))  # [0.531 1.   ]
    ```
    """

    period: Frozen
    low: Frozen
    _shape: Shape = eqx.field(static=True)

    def __init__(self, period: Numbers, low: Numbers = None) -> None:
        period = parameter("period", period, "give the period of the data", positive=True)
        low = parameter(
            "low", -0.5 * period if low is None else low, "give the lower end of the interval of the samples"
        )
        self._shape = same_shape(("period", period), ("low", low), "give both the shape of one example, or a number")
        self.period, self.low = freeze(period), freeze(low)

    @property
    def is_bijective(self) -> bool:
        """`False`: an angle is at many points of the line."""
        return False

    @property
    def shape(self) -> Shape:
        """The shape of the parameters, or `None` if both are numbers."""
        return self._shape

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The point of the angle that is nearest to the centre, and the log-determinant of the scale.

        **Arguments:**

        - `data`: one example, `(*shape)`.

        **Returns:** `z`, `(*shape)`, and the log-determinant, a scalar.
        """
        data = self._one("data", data)
        _, period, principal = self._principal(data)
        return (principal / (_STD * period)).astype(data.dtype), _log_det(period, data)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The angle in `[low, low + period)`, and the log-determinant of the scale.

        **Arguments:**

        - `z`: one point in the flow's coordinates, `(*shape)`.

        **Returns:** the data, `(*shape)`, and the log-determinant, a scalar.
        """
        z = self._one("z", z)
        low, period, wide = like(self.low, z), like(self.period, z), widen(z)
        high = (low + period).astype(z.dtype)
        angle = _nearest(_STD * period * wide, period) + (low + period / 2)
        # Both ends are the same angle. Only rounding can move it to `low + period`, or below `low`.
        angle = jnp.maximum(angle, low).astype(z.dtype)
        angle = jnp.where(angle >= high, jnp.broadcast_to(low, z.shape).astype(z.dtype), angle)
        return angle, _log_det(period, z)

    @checked
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """For every coordinate, one of the two points within a period of the centre, at random.

        **Arguments:**

        - `data`: one example, `(*shape)`.
        - `key`: one typed key, needed.

        **Returns:** `z`, `(*shape)`.

        **Raises:** `ValueError` if `key` is missing.
        """
        key = required_key(key, "`Circular`", "the point of an angle on the line")
        data = self._one("data", data)
        _, period, principal = self._principal(data)
        stays = jax.random.uniform(key, data.shape, principal.dtype) < jnp.cos(jnp.pi * principal / (2 * period)) ** 2
        other = principal - jnp.where(principal < 0, -period, period)
        return (jnp.where(stays, principal, other) / (_STD * period)).astype(data.dtype)

    @checked
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages *shape"], Float[Array, " preimages"]]:
        """The three points nearest to the centre, for every coordinate, all with the same weight.

        **Arguments:**

        - `data`: one example, `(*shape)`, of at most 5 coordinates.
        - `key`: not used.

        **Returns:** the points, `(3^d, *shape)`, and their log-weights, `(3^d,)`.

        **Raises:** `ValueError` if there are more than 5 coordinates.
        """
        data = self._one("data", data)
        if data.size > _MOST_COORDINATES:
            raise ValueError(
                f"`Circular` has {data.size} coordinates, so a likelihood needs 3^{data.size} solves of the flow: "
                f"treat at most {_MOST_COORDINATES} as circular, with `fp.OnColumns(columns, fp.Circular(period))`"
            )
        _, period, principal = self._principal(data)
        turns = np.array(list(itertools.product((0, -1, 1), repeat=data.size))).reshape(-1, *data.shape)
        periods = jnp.broadcast_to(period, data.shape)
        z = (principal[None] + turns.astype(principal.dtype) * periods[None]) / (_STD * periods[None])
        return z.astype(data.dtype), jnp.full(len(turns), _log_det(period, data))

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """No requirements: every number is an angle.

        **Arguments:**

        - `data`: a batch, `(n, *shape)`.

        **Returns:** an empty iterator.
        """
        yield from ()

    def _principal(self, data: Float[Array, "*shape"]) -> tuple[Array, Array, Float[Array, "*shape"]]:
        """`low`, `period`, and the point nearest to the centre, relative to the centre."""
        low, period = like(self.low, data), like(self.period, data)
        return low, period, _nearest(widen(data) - (low + period / 2), period)

    def _one(self, name: str, array: Data) -> Float[Array, "*shape"]:
        array = as_floats(array)
        if self.shape is not None:
            check_shape(name, array, self.shape, "one example has the shape of `period` and `low`")
        return array


def _nearest(place: Float[Array, "*shape"], period: Float[Array, "*parameter"]) -> Float[Array, "*shape"]:
    """The point within half a period of 0. A point that is already there keeps all its digits."""
    return place - period * jax.lax.stop_gradient(jnp.round(place / period))


def _log_det(period: Float[Array, "*parameter"], data: Float[Array, "*shape"]) -> Scalar:
    return -sum_of(jnp.log(_STD * period), data).astype(data.dtype)
