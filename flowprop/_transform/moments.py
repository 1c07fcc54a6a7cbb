"""The mean and the standard deviation of a data set, in double precision, with checks that both can be used."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from .parameters import Numbers, as_numbers, name_entries


_REMEDY = "give an array of shape (rows, *shape)"


class Moments(NamedTuple):
    """The moments of a data set in which every column varies.

    `rounding` is the distance between neighbouring values of the data's dtype, at the largest value of each column.
    """

    points: Shaped[np.ndarray, "rows *shape"]
    mean: Float[np.ndarray, "*shape"]
    std: Float[np.ndarray, "*shape"]
    rounding: Float[np.ndarray, "*shape"]


def moments(points: Numbers) -> Moments:
    """Mean and standard deviation over the first axis, or an error that names the unusable columns."""
    points = as_numbers("points", points, _REMEDY)
    if points.ndim < 2:
        hint = "; for one column, `points[:, None]`" if points.ndim else ""
        raise ValueError(f"`points` has shape {points.shape}: {_REMEDY}{hint}")
    if len(points) < 2 or not points.size:
        raise ValueError(
            f"`points` has shape {points.shape}: give at least two rows and one column, to compute a spread"
        )
    # In parts, because a whole data set of images in double precision may not fit into memory.
    size = max(1, 2**22 // max(1, points[0].size))
    parts = [slice(start, start + size) for start in range(0, len(points), size)]
    wrong = np.any([~np.isfinite(points[part].astype(np.float64)).all(axis=0) for part in parts], axis=0)
    if wrong.any():
        rows = np.flatnonzero(~np.isfinite(points.reshape(len(points), -1).astype(np.float64)).all(axis=1))
        raise ValueError(
            f"`points` has NaN or infinite values in {name_entries(wrong)}, first in row {rows[0]} "
            f"({len(rows)} of {len(points)} rows): drop these rows"
        )
    low, high = points.min(axis=0), points.max(axis=0)
    peak = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    # Relative to the peak, so that squares neither overflow nor underflow.
    unit = np.where(peak > 0, peak, 1.0)
    mean = sum((points[part] / unit).sum(axis=0) for part in parts) / len(points)
    std = np.sqrt(sum(((points[part] / unit - mean) ** 2).sum(axis=0) for part in parts) / len(points))
    mean, std = mean * unit, std * unit
    rounding = _spacing(peak, points.dtype)
    constant = (low == high) | (std < rounding)
    if constant.any():
        raise ValueError(
            f"`points` is constant, or varies only by rounding, in {name_entries(constant)}: drop these columns, add "
            "noise to them, or give `Standardise(mean, std)` standard deviations of your own"
        )
    return Moments(points, mean, std, rounding)


def _spacing(peak: Float[np.ndarray, "*shape"], dtype: np.dtype) -> Float[np.ndarray, "*shape"]:
    """The distance from `peak` to the next number of `dtype`: zero for integers, which are exact."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return np.zeros_like(peak)
    exponent = np.frexp(peak)[1] - 1
    return np.ldexp(float(jnp.finfo(dtype).eps), exponent)
