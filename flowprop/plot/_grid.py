"""The grid on which a density of the plane is evaluated."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import check_shape, checked


#: `((x_min, x_max), (y_min, y_max))`
Bounds: TypeAlias = tuple[tuple[float | int, float | int], tuple[float | int, float | int]]
#: Log-densities at a batch of points, such as `fp.log_prob` of a flow gives.
LogProb: TypeAlias = Callable[[Float[Array, "n 2"]], Any]


@checked
def grid_points(bounds: Bounds, resolution: int = 200) -> tuple[Float[Array, "points 2"], float]:
    """The centres of the cells of a grid, and the area of one cell.

    The sum of a density over the points times the area is its integral by the midpoint rule:

    ```python
    points, area = fp.plot.grid_points(((-3, 3), (-3, 3)))
    integral = jnp.sum(jnp.exp(log_prob(points))) * area
    ```

    **Arguments:**

    - `bounds`: `((x_min, x_max), (y_min, y_max))`, in data coordinates.
    - `resolution`: the number of cells along each axis.

    **Returns:**

    The points, of shape `(resolution**2, 2)`, row by row from the lowest y, each from the lowest x;
    and the area of a cell, a float in squared units of the data.

    **Raises:**

    - `ValueError`: a bound is not below its partner, or `resolution` is below 1.
    """
    if resolution < 1:
        raise ValueError(f"`resolution` is {resolution} where at least 1 cell along each axis is needed")
    centres = []
    for low, high in bounds:
        if not low < high:
            raise ValueError(f"`bounds` holds ({low}, {high}) where (low, high) with low < high is needed")
        edges = np.linspace(low, high, resolution + 1)
        centres.append((edges[:-1] + edges[1:]) / 2)
    x, y = np.meshgrid(*centres)
    (x_low, x_high), (y_low, y_high) = bounds
    return jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=-1)), (x_high - x_low) * (y_high - y_low) / resolution**2


def log_density_on_grid(
    log_prob: LogProb | Float[Array | np.ndarray, " points"], bounds: Bounds, resolution: int, chunk_size: int
) -> Float[np.ndarray, "rows columns"]:
    """The log-densities at `grid_points`, as an image whose first row is the lowest; values already known are kept."""
    points, _ = grid_points(bounds, resolution)
    if not callable(log_prob):
        check_shape(
            "log_prob", log_prob, (len(points),), "its values at `grid_points(bounds, resolution)`, in that order"
        )
        return np.asarray(log_prob).reshape(resolution, resolution)
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size} where at least 1 point is needed")
    # Every chunk has the same size, the last one with some repeated points, so that a compiled function compiles once.
    chunk_size = min(chunk_size, len(points))
    values = []
    for start in range(0, len(points), chunk_size):
        chunk = points[jnp.minimum(jnp.arange(start, start + chunk_size), len(points) - 1)]
        value = jnp.asarray(log_prob(chunk))
        check_shape("log_prob(points)", value, (chunk_size,), "one log-density for each point")
        values.append(np.asarray(value))
    return np.concatenate(values)[: len(points)].reshape(resolution, resolution)
