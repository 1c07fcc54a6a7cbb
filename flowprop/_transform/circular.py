"""Angles, and other data that come back after a period."""

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
    """Angles, and other data that come back after a period.

    A flow lives on the line, where an angle `theta` has the places `theta + k period` for every integer `k`. A density
    `q` on the line gives the density of the angle by wrapping it around the circle,

    `p(theta) = sum_k q(theta + k period)`

    (Mardia & Jupp 2000, *Directional Statistics*, section 3.5.7), which is periodic whatever `q` is. Training sees an
    angle at one of its two places within a period of the centre of the interval. The place at a distance `u` is drawn
    with the probability `cos^2(pi u / (2 period))`; those of the two add up to 1. So the density on the line falls to
    zero smoothly on both sides, and the circle is cut nowhere. Last, the line is divided by 0.3615 periods, the
    standard deviation of uniform angles that are drawn so.

    The sum has the three places nearest to the centre, of every coordinate: `3^d` evaluations of the flow for a
    likelihood, with `d` at most 5. What a flow puts further away than 1.5 periods (4.1 in its own coordinates) is not
    counted; training puts nothing beyond 1 period.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    transform = fp.OnColumns((0,), fp.Circular(2 * jnp.pi))  # an angle, and something else
    transform.inverse(jnp.array([3.0, 1.0]))  # an angle in [-pi, pi), and 1.0
    ```

    **Arguments:**

    - `period`: an array of the shape of one example, or a number for all coordinates. Positive.
    - `low`: where the interval `[low, low + period)` of the samples begins, likewise. By default `-period / 2`.

    **Raises:** `ValueError` for a `period` that is not positive, numbers that are not finite, or two shapes that
    differ.
    """

    period: Frozen
    low: Frozen
    _shape: Shape = eqx.field(static=True)

    def __init__(self, period: Numbers, low: Numbers = None) -> None:
        period = parameter("period", period, "give the distance after which the data come back", positive=True)
        low = parameter("low", -0.5 * period if low is None else low, "give where the interval of the samples begins")
        self._shape = same_shape(("period", period), ("low", low), "give both the shape of one example, or a number")
        self.period, self.low = freeze(period), freeze(low)

    @property
    def is_bijective(self) -> bool:
        """False: an angle has many places on the line."""
        return False

    @property
    def shape(self) -> Shape:
        """The shape of the parameters, or `None` if both are numbers."""
        return self._shape

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The place of the angle that is nearest to the centre, and the log-determinant of the scale."""
        data = self._one("data", data)
        _, period, principal = self._principal(data)
        return (principal / (_STD * period)).astype(data.dtype), _log_det(period, data)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The angle in `[low, low + period)`, and the log-determinant of the scale."""
        z = self._one("z", z)
        low, period, wide = like(self.low, z), like(self.period, z), widen(z)
        high = (low + period).astype(z.dtype)
        angle = _nearest(_STD * period * wide, period) + (low + period / 2)
        # The ends are one angle: rounding alone takes it to `low + period`, or below `low`.
        angle = jnp.maximum(angle, low).astype(z.dtype)
        angle = jnp.where(angle >= high, jnp.broadcast_to(low, z.shape).astype(z.dtype), angle)
        return angle, _log_det(period, z)

    @checked
    def draw(self, data: Data, *, key: PRNGKey | None = None) -> Float[Array, "*shape"]:
        """One of the two places within a period of the centre, for every coordinate of one example."""
        key = required_key(key, "`Circular`", "the place of an angle on the line")
        data = self._one("data", data)
        _, period, principal = self._principal(data)
        stays = jax.random.uniform(key, data.shape, principal.dtype) < jnp.cos(jnp.pi * principal / (2 * period)) ** 2
        other = principal - jnp.where(principal < 0, -period, period)
        return (jnp.where(stays, principal, other) / (_STD * period)).astype(data.dtype)

    @checked
    def preimages(
        self, data: Data, *, key: PRNGKey | None = None
    ) -> tuple[Float[Array, "preimages *shape"], Float[Array, " preimages"]]:
        """The three places nearest to the centre of every coordinate, with one weight. `key` is not used."""
        data = self._one("data", data)
        if data.size > _MOST_COORDINATES:
            raise ValueError(
                f"`Circular` has {data.size} coordinates, so that a likelihood needs 3^{data.size} solves of the flow: "
                f"treat at most {_MOST_COORDINATES} as circular, by `fp.OnColumns(columns, fp.Circular(period))`"
            )
        _, period, principal = self._principal(data)
        turns = np.array(list(itertools.product((0, -1, 1), repeat=data.size))).reshape(-1, *data.shape)
        periods = jnp.broadcast_to(period, data.shape)
        z = (principal[None] + turns.astype(principal.dtype) * periods[None]) / (_STD * periods[None])
        return z.astype(data.dtype), jnp.full(len(turns), _log_det(period, data))

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """None: every number is an angle."""
        yield from ()

    def _principal(self, data: Float[Array, "*shape"]) -> tuple[Array, Array, Float[Array, "*shape"]]:
        """`low`, `period`, and the place nearest to the centre, from there."""
        low, period = like(self.low, data), like(self.period, data)
        return low, period, _nearest(widen(data) - (low + period / 2), period)

    def _one(self, name: str, array: Data) -> Float[Array, "*shape"]:
        array = as_floats(array)
        if self.shape is not None:
            check_shape(name, array, self.shape, "one example has the shape of `period` and `low`")
        return array


def _nearest(place: Float[Array, "*shape"], period: Float[Array, "*parameter"]) -> Float[Array, "*shape"]:
    """The place within half a period of 0. One that is there already keeps all its digits."""
    return place - period * jax.lax.stop_gradient(jnp.round(place / period))


def _log_det(period: Float[Array, "*parameter"], data: Float[Array, "*shape"]) -> Scalar:
    return -sum_of(jnp.log(_STD * period), data).astype(data.dtype)
