"""The exact test of uniform ranks, which all checks of calibration share."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Integer

from .._types import PRNGKey, Real


_MOST_POSITIONS = 99


class CalibrationTest(NamedTuple):
    """The result of a check of calibration: ranks that are uniform if the posterior is right, and the test of them.

    The ranks of one statistic have the empirical distribution function `F`. For uniform ranks, `n F(z)` is binomial at
    each position z. The test looks for the position where it is least probable; the band contains the whole function
    with probability `1 - significance` ([Säilynoja et al. 2022](https://arxiv.org/abs/2103.10522)). Its limits and
    the p-values are computed exactly, not simulated. With several statistics, each p-value is adjusted by Holm's method
    and the band is widened by Bonferroni's, so that `passed` is `False` with at most this probability for a right
    posterior. The figures [`flowprop.plot.sbc`][] and [`flowprop.plot.coverage`][] show the same band.

    **Arguments:**

    - `ranks`: how many of the posterior's samples have a smaller statistic than the true parameter, `(n, statistics)`,
        from 0 to `num_samples`.
    - `num_samples`: how many samples each rank was computed from.
    - `positions`: the positions z in (0, 1) where the distribution function is taken, `(positions,)`.
    - `cumulative`: the fraction of ranks up to each position, `(statistics, positions)`. If the ranks are those of
        regions of the posterior, this is their coverage, and the position is their level.
    - `lower`, `upper`: the simultaneous band of the fraction, `(positions,)`.
    - `p_value`: the probability that uniform ranks deviate at least as much, `(statistics,)`.
    - `adjusted_p_value`: the same for the largest of all deviations (Holm), `(statistics,)`.
    - `significance`: the probability with which the check rejects a right posterior.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class TooNarrow:
        \"\"\"Wrong if theta ~ N(0, 1) and x ~ N(theta, 1): the variance is 0.5.\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 + 0.3 * jax.random.normal(key, (num_samples, 1))


    theta, noise, key = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(theta, (100, 1))
    x = theta + jax.random.normal(noise, (100, 1))
    test = fp.metrics.sbc(TooNarrow(), theta, x, key=key)
    print(test.passed, test.p_value[0] < 1e-3)  # False True
    ```
    """

    ranks: Integer[np.ndarray, "n statistics"]
    num_samples: int
    positions: Float[np.ndarray, " positions"]
    cumulative: Float[np.ndarray, "statistics positions"]
    lower: Float[np.ndarray, " positions"]
    upper: Float[np.ndarray, " positions"]
    p_value: Float[np.ndarray, " statistics"]
    adjusted_p_value: Float[np.ndarray, " statistics"]
    significance: float

    @property
    def passed(self) -> bool:
        """Whether no statistic deviates significantly."""
        return bool(np.all(self.adjusted_p_value > self.significance))

    def __str__(self) -> str:
        worst = int(np.argmin(self.adjusted_p_value))
        return (
            f"{'passed' if self.passed else 'failed'} at {self.significance:.2g} with {len(self.ranks)} observations: "
            f"smallest adjusted p-value {self.adjusted_p_value[worst]:.2g} (statistic {worst})"
        )


def ranks_among(
    statistic: Float[np.ndarray, "n statistics"],
    of_samples: Float[np.ndarray, "n num_samples statistics"],
    key: PRNGKey,
) -> Integer[np.ndarray, "n statistics"]:
    """How many samples have a smaller statistic. Ties are broken at random, so that discrete statistics have uniform
    ranks too."""
    own = statistic[:, None]
    below, equal = np.sum(of_samples < own, axis=1), np.sum(of_samples == own, axis=1)
    return below + np.asarray(jax.random.randint(key, equal.shape, 0, equal + 1))


def calibration_test(
    ranks: Integer[np.ndarray, "n statistics"], num_samples: int, significance: Real
) -> CalibrationTest:
    """Test that the ranks of each statistic are uniform on `0, ..., num_samples`."""
    if not 0 < significance < 1:
        raise ValueError(f"`significance` is {significance}: give a probability between 0 and 1, such as 0.05")
    size, count = ranks.shape
    edges = np.unique(np.linspace(1, num_samples, min(num_samples, _MOST_POSITIONS)).round().astype(int))
    positions = tuple((edges / (num_samples + 1)).tolist())
    counts = np.stack([np.searchsorted(np.sort(own), edges) for own in ranks.T])
    p_value = np.array([_p_value(size, positions, _least(size, positions, own)) for own in counts])
    lower, upper = _band(size, positions, significance / count)
    return CalibrationTest(
        ranks,
        num_samples,
        np.asarray(positions),
        counts / size,
        lower / size,
        upper / size,
        p_value,
        holm(p_value),
        float(significance),
    )


def holm(p_value: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """The p-values of several tests, adjusted so that the smallest one holds for all tests together
    ([Holm 1979](https://www.jstor.org/stable/4615733))."""
    order = np.argsort(p_value)
    adjusted = np.maximum.accumulate(p_value[order] * np.arange(len(p_value), 0, -1)).clip(max=1)
    return adjusted[np.argsort(order)]


@functools.lru_cache(maxsize=8)
def _pointwise(size: int, positions: tuple[float, ...]) -> Float[np.ndarray, "positions counts"]:
    """The two-sided p-value of each number of ranks below each position, from binomial distributions."""
    from scipy.stats import binom

    counts = np.arange(size + 1)
    below = binom.cdf(counts, size, np.asarray(positions)[:, None])
    above = binom.sf(counts - 1, size, np.asarray(positions)[:, None])
    return np.minimum(2 * np.minimum(below, above), 1)


def _least(size: int, positions: tuple[float, ...], counts: Integer[np.ndarray, " positions"]) -> float:
    return float(_pointwise(size, positions)[np.arange(len(positions)), counts].min())


def _p_value(size: int, positions: tuple[float, ...], least: float) -> float:
    """The probability that the smallest of the pointwise p-values of uniform ranks is at most `least`."""
    # Rounding must not decide whether the observed count itself lies in the region.
    within = _probability_within(size, positions, _pointwise(size, positions) > least * (1 + 1e-9))
    return min(max(1 - within, 0.0), 1.0)


@functools.lru_cache(maxsize=64)
def _band(
    size: int, positions: tuple[float, ...], significance: float
) -> tuple[Integer[np.ndarray, " positions"], Integer[np.ndarray, " positions"]]:
    """The smallest and the largest numbers of ranks in a band that uniform ranks leave with this probability."""
    low, high = significance / len(positions) / 10, significance  # of the pointwise p-values outside the band
    for _ in range(30):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if _p_value(size, positions, middle) <= significance else (low, middle)
    inside = _pointwise(size, positions) > low
    return inside.argmax(axis=1), size - inside[:, ::-1].argmax(axis=1)


def _probability_within(size: int, positions: tuple[float, ...], inside: Bool[np.ndarray, "positions counts"]) -> float:
    """The probability that the numbers of ranks below all positions are inside.

    A Poisson process of rate `size` has independent increments and, given its total, the distribution of the ranks.
    """
    least, reached = 0, np.ones(1)  # the probabilities of the counts from `least`
    for step, allowed in zip(np.diff([0, *positions]), inside, strict=True):
        if not allowed.any():
            return 0.0
        low, high = np.flatnonzero(allowed)[[0, -1]]
        after = np.convolve(reached, _poisson(np.arange(high - least + 1), size * step))[: high - least + 1]
        reached = np.pad(after, (max(least - low, 0), 0))[max(low - least, 0) :] * allowed[low : high + 1]
        least = low
    last = _poisson(size - least - np.arange(len(reached)), size * (1 - positions[-1]))
    return float(reached @ last / _poisson(np.array([size]), size)[0])


def _poisson(counts: Integer[np.ndarray, "*counts"], rate: Real) -> Float[np.ndarray, "*counts"]:
    from scipy.special import gammaln

    return np.exp(counts * np.log(rate) - rate - gammaln(counts + 1))
