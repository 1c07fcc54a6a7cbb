"""Whether the densities that a model states can be trusted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Scalar, checked


Ranks = Float[Array | np.ndarray, " n"]


class CoverageCurve(NamedTuple):
    """How much of the data a model's highest-density regions hold; `fp.plot.coverage_curve` draws it.

    **Arguments:**

    - `level`: how much of its own probability the model has in each region.
    - `coverage`: the share of the data that lie in it.
    - `standard_error`: of the coverage, were the model calibrated: `sqrt(level (1 - level) / n)`.
    """

    level: Float[np.ndarray, " levels"]
    coverage: Float[np.ndarray, " levels"]
    standard_error: Float[np.ndarray, " levels"]


@checked
def coverage(
    log_prob_of_data: Float[Array | np.ndarray, " n"],
    log_prob_of_samples: Float[Array | np.ndarray, " m"] | Float[Array | np.ndarray, "n m"],
) -> Float[Array, " n"]:
    """For each data point, the share of a model's own samples that lie where it is denser.

    That is the level of the smallest highest-density region with the point in it, estimated as `(k + 1/2) / (m + 1)`
    for k denser samples of m. If the data follow the model, these ranks are uniform on [0, 1] (Hermans et al. 2022,
    arXiv:2110.06581). A model that is too narrow finds its data far out, with ranks near 1. A tie counts one half, so
    that a density constant over a region has no uniform ranks there.

    **Arguments:**

    - `log_prob_of_data`: the model's log-density of each data point, `(n,)`, in nats.
    - `log_prob_of_samples`: its log-density of its own samples, in nats: `(n, m)`, with samples for each point's
        condition, or `(m,)` where there is no condition. Their error is then common to all points: draw many more of
        them than there are points.

    **Returns:** ranks `(n,)`, between 0 and 1.

    **Raises:** `ValueError` if there are no points or no samples, or a log-density is NaN.
    """
    for name, log_prob in (("log_prob_of_data", log_prob_of_data), ("log_prob_of_samples", log_prob_of_samples)):
        if log_prob.size == 0:
            raise ValueError(f"`{name}` has shape {log_prob.shape}, without a single log-density: give at least one")
        if count := int(np.isnan(np.asarray(log_prob)).sum()):
            raise ValueError(f"`{name}` holds {count} NaN: leave these points out, or mend what made them")
    return _coverage(jnp.asarray(log_prob_of_data), jnp.asarray(log_prob_of_samples))


@jax.jit
def _coverage(data: Float[Array, " n"], samples: Float[Array, "*n m"]) -> Float[Array, " n"]:
    def rank(point: Scalar, own: Float[Array, " m"]) -> Scalar:
        rising = jnp.sort(own)
        below, not_above = (jnp.searchsorted(rising, point, side=side) for side in ("left", "right"))
        return 1 - ((below + not_above) / 2 + 0.5) / (len(own) + 1)

    return jax.vmap(rank, in_axes=(0, 0 if samples.ndim == 2 else None))(data, samples)


@checked
def expected_coverage(ranks: Ranks, levels: Float[Array | np.ndarray, " levels"] | None = None) -> CoverageCurve:
    """How much of the data lie in a model's highest-density regions, against how much of its probability does.

    The share of ranks that do not exceed each level (Hermans et al. 2022, arXiv:2110.06581). For a calibrated model it
    is the level; a curve below the diagonal says that the model is too narrow, one above that it is too wide. The
    diagonal is necessary, not sufficient: a model too narrow for some data and too wide for others may have it too.

    **Arguments:**

    - `ranks`: from [`flowprop.metrics.coverage`][], `(n,)`.
    - `levels`: in [0, 1]. By default 0, 0.01, ..., 1.

    **Returns:** a [`flowprop.metrics.CoverageCurve`][].

    **Raises:** `ValueError` if `ranks` or `levels` is empty or not in [0, 1].
    """
    level = _within_unit("levels", np.linspace(0, 1, 101) if levels is None else levels)
    rising = np.sort(_within_unit("ranks", ranks))
    share = np.searchsorted(rising, level, side="right") / len(rising)
    return CoverageCurve(level, share, np.sqrt(level * (1 - level) / len(rising)))


@checked
def calibration_error(ranks: Ranks) -> float:
    """The largest distance of the expected coverage from its level, over all levels.

    The Kolmogorov-Smirnov statistic of the ranks against the uniform distribution. That of n ranks of a calibrated
    model exceeds `1.36 / sqrt(n)` one time in twenty.

    **Arguments:**

    - `ranks`: from [`flowprop.metrics.coverage`][], `(n,)`.

    **Returns:** a number between 0 and 1.

    **Raises:** `ValueError` if `ranks` is empty or not in [0, 1].
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
