"""The grid on which a two-dimensional density is evaluated."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import check_shape, checked


#: The limits of a region of the plane: `((x_min, x_max), (y_min, y_max))`.
Bounds: TypeAlias = tuple[tuple[float | int, float | int], tuple[float | int, float | int]]
#: A function from a batch of points to log-densities, such as `lambda z: fp.log_prob(flow, z)`.
LogProb: TypeAlias = Callable[[Float[Array, "n 2"]], Any]


@checked
def grid_points(bounds: Bounds, resolution: int = 200) -> tuple[Float[Array, "points 2"], float]:
    """The centres of the cells of a grid, and the area of one cell.

    The sum of a density over these points, times the area, is its integral by the midpoint rule.

    **Arguments:**

    - `bounds`: the region, `((x_min, x_max), (y_min, y_max))`, in data coordinates.
    - `resolution`: the number of cells along each axis. By default 200.

    **Returns:** the points, `(resolution**2, 2)`, and the area of a cell, a float in squared units of the data. The
    points are ordered row by row, from the lowest y; within a row from the lowest x.

    **Raises:** `ValueError` if a lower bound is not below its upper bound, or `resolution` is below 1.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    points, area = fp.plot.grid_points(((-3, 3), (-3, 3)), resolution=50)
    density = fp.data.TwoMoons(noise=0.1)
    integral = jnp.sum(jnp.exp(density.log_prob(points))) * area
    print(points.shape, round(float(integral), 2))  # (2500, 2) 1.0
    ```
    """
    if resolution < 1:
        raise ValueError(f"`resolution` is {resolution}: give at least 1 cell along each axis")
    centres = []
    for low, high in bounds:
        if not low < high:
            raise ValueError(f"`bounds` holds ({low}, {high}): give (low, high) with low < high")
        edges = np.linspace(low, high, resolution + 1)
        centres.append((edges[:-1] + edges[1:]) / 2)
    x, y = np.meshgrid(*centres)
    (x_low, x_high), (y_low, y_high) = bounds
    return jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=-1)), (x_high - x_low) * (y_high - y_low) / resolution**2


def log_density_on_grid(
    log_prob: LogProb | Float[Array | np.ndarray, " points"], bounds: Bounds, resolution: int, chunk_size: int
) -> Float[np.ndarray, "rows columns"]:
    """The log-densities at `grid_points` as an image whose first row has the lowest y. Arrays are reshaped."""
    points, _ = grid_points(bounds, resolution)
    if not callable(log_prob):
        check_shape(
            "log_prob", log_prob, (len(points),), "its values at `grid_points(bounds, resolution)`, in that order"
        )
        return np.asarray(log_prob).reshape(resolution, resolution)
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size}: give at least 1 point")
    # All chunks have the same size, so that a jitted function compiles once. The last chunk repeats its last point.
    chunk_size = min(chunk_size, len(points))
    values = []
    for start in range(0, len(points), chunk_size):
        chunk = points[jnp.minimum(jnp.arange(start, start + chunk_size), len(points) - 1)]
        value = jnp.asarray(log_prob(chunk))
        check_shape("log_prob(points)", value, (chunk_size,), "one log-density for each point")
        values.append(np.asarray(value))
    return np.concatenate(values)[: len(points)].reshape(resolution, resolution)
