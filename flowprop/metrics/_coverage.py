"""The calibration of the densities of a model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Scalar, checked


Ranks = Float[Array | np.ndarray, " n"]


class CoverageCurve(NamedTuple):
    """The result of [`flowprop.metrics.coverage_curve`][]; [`flowprop.plot.coverage_curve`][] draws it.

    **Arguments:**

    - `level`: the probability that the model assigns to each of its highest-density regions, `(levels,)`.
    - `coverage`: the fraction of the data that lie in each region, `(levels,)`.
    - `standard_error`: the standard error of the coverage of a calibrated model, `sqrt(level (1 - level) / n)`,
        `(levels,)`.

    ```python
    import flowprop as fp
    import numpy as np

    ranks = np.linspace(0.005, 0.995, 100)  # uniform: the model is calibrated
    curve = fp.metrics.coverage_curve(ranks, levels=np.array([0.5]))
    print(curve.level[0], curve.coverage[0], curve.standard_error[0])  # 0.5 0.5 0.05
    ```
    """

    level: Float[np.ndarray, " levels"]
    coverage: Float[np.ndarray, " levels"]
    standard_error: Float[np.ndarray, " levels"]


@checked
def coverage(
    log_prob_of_data: Float[Array | np.ndarray, " n"],
    log_prob_of_samples: Float[Array | np.ndarray, " m"] | Float[Array | np.ndarray, "n m"],
) -> Float[Array, " n"]:
    """The rank of each data point: the fraction of the model's own samples that have a higher density than the point.

    This is the level of the smallest highest-density region that contains the point. It is estimated as
    `(k + 1/2) / (m + 1)` if k of m samples have a higher density. If the data follow the model, these ranks are uniform
    on [0, 1] ([Hermans et al. 2022](https://arxiv.org/abs/2110.06581)). If the model is too narrow, many ranks are near
    1. A tie counts one half, so the ranks are not uniform where the density is constant over a region.

    **Arguments:**

    - `log_prob_of_data`: the model's log-density of each data point, `(n,)`, in nats.
    - `log_prob_of_samples`: the model's log-density of its own samples, in nats. Give an array `(n, m)` with m samples
        for the condition of each point, or an array `(m,)` if there is no condition. In the second case all points
        share the sampling error, so draw many more samples than there are points.

    **Returns:** ranks `(n,)`, between 0 and 1.

    **Raises:** `ValueError` if there are no points or no samples, or a log-density is NaN.

    ```python
    import flowprop as fp
    import numpy as np

    log_prob_of_data = np.array([-1.0, -5.0])
    log_prob_of_samples = np.array([-0.5, -2.0, -3.0])
    ranks = fp.metrics.coverage(log_prob_of_data, log_prob_of_samples)
    print(ranks)  # [0.375 0.875]
    ```
    """
    for name, log_prob in (("log_prob_of_data", log_prob_of_data), ("log_prob_of_samples", log_prob_of_samples)):
        if log_prob.size == 0:
            raise ValueError(f"`{name}` has shape {log_prob.shape}, which is empty: give at least one log-density")
        if count := int(np.isnan(np.asarray(log_prob)).sum()):
            raise ValueError(f"`{name}` holds {count} NaN: remove these points or correct the model")
    return _coverage(jnp.asarray(log_prob_of_data), jnp.asarray(log_prob_of_samples))


@jax.jit
def _coverage(data: Float[Array, " n"], samples: Float[Array, "*n m"]) -> Float[Array, " n"]:
    def rank(point: Scalar, own: Float[Array, " m"]) -> Scalar:
        rising = jnp.sort(own)
        below, not_above = (jnp.searchsorted(rising, point, side=side) for side in ("left", "right"))
        return 1 - ((below + not_above) / 2 + 0.5) / (len(own) + 1)

    return jax.vmap(rank, in_axes=(0, 0 if samples.ndim == 2 else None))(data, samples)


@checked
def coverage_curve(ranks: Ranks, levels: Float[Array | np.ndarray, " levels"] | None = None) -> CoverageCurve:
    """The coverage curve: the fraction of the data in the model's highest-density region of each level.

    The level of a region is the probability that the model assigns to it. The coverage is the fraction of ranks that do
    not exceed the level ([Hermans et al. 2022](https://arxiv.org/abs/2110.06581)). For a calibrated model it equals the
    level. A curve below the diagonal means that the model is too narrow; a curve above it means that the model is too
    wide. A diagonal curve does not prove calibration: a model may be too narrow for some data and too wide for others.

    **Arguments:**

    - `ranks`: the ranks from [`flowprop.metrics.coverage`][], `(n,)`.
    - `levels`: the levels in [0, 1], `(levels,)`. By default 0, 0.01, ..., 1.

    **Returns:** a [`flowprop.metrics.CoverageCurve`][].

    **Raises:** `ValueError` if `ranks` or `levels` is empty or not in [0, 1].

    ```python
    import flowprop as fp
    import numpy as np

    ranks = np.linspace(0.005, 0.995, 100)  # uniform: the model is calibrated
    curve = fp.metrics.coverage_curve(ranks, levels=np.array([0.25, 0.75]))
    print(curve.coverage)  # [0.25 0.75]
    ```
    """
    level = _within_unit("levels", np.linspace(0, 1, 101) if levels is None else levels)
    rising = np.sort(_within_unit("ranks", ranks))
    share = np.searchsorted(rising, level, side="right") / len(rising)
    return CoverageCurve(level, share, np.sqrt(level * (1 - level) / len(rising)))


@checked
def calibration_error(ranks: Ranks) -> float:
    """The calibration error: the largest difference between expected coverage and level, over all levels.

    This is the Kolmogorov-Smirnov statistic of the ranks against the uniform distribution. For n ranks of a calibrated
    model it exceeds `1.36 / sqrt(n)` with probability 5 %
    ([Massey 1951](https://doi.org/10.1080/01621459.1951.10500769), table 1).

    **Arguments:**

    - `ranks`: the ranks from [`flowprop.metrics.coverage`][], `(n,)`.

    **Returns:** a number between 0 and 1.

    **Raises:** `ValueError` if `ranks` is empty or not in [0, 1].

    ```python
    import flowprop as fp
    import numpy as np

    ranks = np.linspace(0.005, 0.995, 100)  # uniform: the model is calibrated
    print(round(fp.metrics.calibration_error(ranks), 3))  # 0.005
    print(round(fp.metrics.calibration_error(ranks**2), 3))  # 0.255
    ```
    """
    rising = np.sort(_within_unit("ranks", ranks))
    steps = np.arange(len(rising) + 1) / len(rising)
    return float(max(np.max(steps[1:] - rising), np.max(rising - steps[:-1])))


def _within_unit(name: str, numbers: Ranks) -> Float[np.ndarray, " n"]:
    values = np.asarray(numbers, np.float64)
    if len(values) == 0:
        raise ValueError(f"`{name}` is empty: give at least one number in [0, 1]")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"`{name}` holds numbers from {values.min()} to {values.max()} where [0, 1] is needed")
    return values
