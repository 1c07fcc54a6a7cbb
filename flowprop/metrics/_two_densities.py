"""Distances between two distributions whose densities are known, at samples of one of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from .._types import checked


LogDensities = Float[Array | np.ndarray, " n"]


class MeanEstimate(NamedTuple):
    """A mean over independent samples, such as [`flowprop.metrics.kl_divergence`][] returns.

    **Arguments:**

    - `value`: the mean.
    - `standard_error`: the standard error of the mean. It is NaN for one sample.

    ```python
    import flowprop as fp

    estimate = fp.metrics.MeanEstimate(value=0.57, standard_error=0.01)
    print(estimate)  # 0.5700 +- 0.0100
    ```
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} +- {self.standard_error:.4f}"


@checked
def bayes_accuracy(log_p: LogDensities, log_q: LogDensities) -> MeanEstimate:
    """The Bayes accuracy: the largest accuracy that any classifier can have between samples of two distributions.

    The best classifier assigns each point to the distribution with the higher density. Its accuracy is
    `1/2 + TV(p, q) / 2` with the total variation distance `TV(p, q) = E_p[max(0, 1 - q/p)]`
    ([Devroye et al. 1996](https://doi.org/10.1007/978-1-4612-0711-5), theorem 2.2 and problem 2.10). It is 0.5 for
    equal distributions and 1 for distributions without overlap. The accuracy of a trained classifier,
    [`flowprop.metrics.classifier_two_sample_test`][], is lower on average: use this function wherever both densities
    are known.

    **Arguments:**

    - `log_p`: the log-density of the first distribution at its own samples, `(n,)`, in nats.
    - `log_q`: the log-density of the second distribution at the same points, `(n,)`. Both must be normalised. It may be
        -inf.

    **Returns:** a [`flowprop.metrics.MeanEstimate`][].

    **Raises:** `ValueError` if there are no samples, a log-density is NaN or infinite, or `log_p` is -inf.

    ```python
    import flowprop as fp
    import numpy as np
    from scipy.stats import norm

    samples = np.random.default_rng(0).normal(size=10_000)
    accuracy = fp.metrics.bayes_accuracy(norm.logpdf(samples), norm.logpdf(samples - 1))
    print(abs(accuracy.value - norm.cdf(0.5)) < 3 * accuracy.standard_error)  # True
    ```
    """
    log_ratio = _log_ratio(log_p, log_q)
    return _mean(0.5 + 0.5 * -np.expm1(np.minimum(log_ratio, 0)))


@checked
def kl_divergence(log_p: LogDensities, log_q: LogDensities) -> MeanEstimate:
    """The Kullback-Leibler divergence from two log-densities at samples of the first distribution, in nats.

    `KL(p | q) = E_p[log p - log q]` ([Kullback & Leibler 1951](https://doi.org/10.1214/aoms/1177729694), eq. 2.5).
    It says how many nats the second density falls short of the first on average. The estimate itself may be negative.

    **Arguments:**

    - `log_p`: the log-density of the first distribution at its own samples, `(n,)`, in nats.
    - `log_q`: the log-density of the second distribution at the same points, `(n,)`. Both must be normalised. If it is
        -inf at a point, the divergence is infinite.

    **Returns:** a [`flowprop.metrics.MeanEstimate`][].

    **Raises:** `ValueError` if there are no samples, a log-density is NaN or infinite, or `log_p` is -inf.

    ```python
    import flowprop as fp
    import numpy as np
    from scipy.stats import norm

    samples = np.random.default_rng(0).normal(size=10_000)
    kl = fp.metrics.kl_divergence(norm.logpdf(samples), norm.logpdf(samples - 1))
    print(abs(kl.value - 0.5) < 3 * kl.standard_error)  # True
    ```
    """
    return _mean(-_log_ratio(log_p, log_q))


def _log_ratio(log_p: LogDensities, log_q: LogDensities) -> Float[np.ndarray, " n"]:
    """`log q - log p` in double precision."""
    if len(log_p) == 0:
        raise ValueError("`log_p` is empty: give the log-density of at least one sample")
    p, q = np.asarray(log_p, np.float64), np.asarray(log_q, np.float64)
    for name, values, wrong in (("log_p", p, ~np.isfinite(p)), ("log_q", q, np.isnan(q) | np.isposinf(q))):
        if wrong.any():
            raise ValueError(
                f"`{name}` holds {wrong.sum()} numbers that are no log-density of a sample, such as "
                f"{values[wrong][0]}: remove these samples or correct the density"
            )
    return q - p


def _mean(values: Float[np.ndarray, " n"]) -> MeanEstimate:
    if len(values) == 1 or not np.all(np.isfinite(values)):
        return MeanEstimate(float(values.mean()), float("nan"))
    return MeanEstimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))
