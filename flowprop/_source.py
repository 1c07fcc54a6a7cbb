"""Where a flow starts: gaussian noise, or data of another kind."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._frozen import Frozen
from ._types import Point, PRNGKey, Scalar, check_positive, check_shape, checked


class AbstractSource(eqx.Module):
    """The distribution of `z_0`, in the path's coordinates.

    A source of one's own says whether it is `N(0, I)` by `is_gaussian`: scores, SDEs and the bound need it.
    """

    is_gaussian: ClassVar[bool] = False

    @abc.abstractmethod
    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        """Independent points, each of `shape`."""

    @abc.abstractmethod
    def log_prob(self, z0: Point) -> Scalar:
        """The log-density at one point, in nats."""


class GaussianSource(AbstractSource):
    """`N(0, I)`: the source that has a score, an SDE and an evidence lower bound."""

    is_gaussian: ClassVar[bool] = True

    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        return jax.random.normal(key, (num_points, *shape))

    def log_prob(self, z0: Point) -> Scalar:
        return jax.scipy.stats.norm.logpdf(z0).sum()


class EmpiricalSource(AbstractSource):
    """Rows of a data set, each as likely: a flow from data to data (two moons to eight gaussians, say).

    It has no density, and so neither has the flow.

    **Arguments:**

    - `points`: `(rows, *shape)`; never trained.

    **Raises:** `ValueError` if there are none or, when sampled, if a row has not the flow's shape.
    """

    points: Frozen

    @checked
    def __init__(self, points: Float[Array | np.ndarray, "rows *shape"]) -> None:
        check_positive(points=len(points))
        self.points = Frozen(jnp.asarray(points))

    def sample(self, num_points: int, shape: tuple[int, ...], *, key: PRNGKey) -> Float[Array, "points *shape"]:
        points = self.points.value
        check_shape("points", points, (None, *shape), "the source's rows have the flow's `shape`")
        return points[jax.random.randint(key, (num_points,), 0, len(points))]

    def log_prob(self, z0: Point) -> Scalar:
        raise ValueError(
            "`source` is an EmpiricalSource, which has no density: a likelihood needs `fp.GaussianSource()`"
        )
