"""What a check asks of a posterior: samples and densities for many observations."""

from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._types import PRNGKey
from ._samples import check_at_least, check_finite


#: Parameters that were drawn from the prior, one for each observation.
Parameters = Float[Array | np.ndarray, "batch *shape"]
#: Simulated observations.
Observations = Shaped[Array | np.ndarray, "observations *observation"]


@runtime_checkable
class PosteriorLike(Protocol):
    """What the checks of a posterior call: any object with these methods can be checked.

    `sample` is enough for most checks. Two further methods are optional; they save time because one call serves many
    observations:

    - `sample_each(x, num_samples, *, key)`: samples `(batch, num_samples, *shape)` for observations `x`
        `(batch, *observation)`. Without it, `sample` is called for each observation.
    - `log_prob_each(theta, x)`: the log-densities `(batch, n)` of `theta` `(batch, n, *shape)`, in nats. Without it,
        `log_prob(theta, x)` is called for each observation; it returns `(n,)` for `theta` `(n, *shape)`.

    ```python
    import flowprop as fp
    import jax
    import numpy as np


    class Exact:
        \"\"\"The posterior of theta ~ N(0, 1) if x ~ N(theta, 1).\"\"\"

        def sample(self, x, num_samples, *, key):
            return x / 2 + np.sqrt(0.5) * jax.random.normal(key, (num_samples, 1))

        def log_prob(self, theta, x):
            return jax.scipy.stats.norm.logpdf(theta, x / 2, np.sqrt(0.5))[:, 0]


    print(isinstance(Exact(), fp.metrics.PosteriorLike))  # True
    ```
    """

    def sample(self, x: Any, num_samples: int, *, key: Any) -> Any:
        """Samples `(num_samples, *shape)` of the posterior of one observation `x`, without a batch axis."""
        ...


def check_pairs(theta: Parameters, x: Observations) -> None:
    """Raise a `ValueError` unless there are pairs of finite parameters and observations."""
    if len(theta) != len(x):
        raise ValueError(f"`theta` has {len(theta)} rows and `x` {len(x)}: give one observation for each parameter")
    check_at_least(1, theta=theta)
    check_finite(theta=theta)
    if np.issubdtype(np.asarray(x).dtype, np.floating):
        check_finite(x=x)


def samples_of_each(
    posterior: PosteriorLike, x: Observations, num_samples: int, shape: tuple[int, ...], key: PRNGKey
) -> Float[np.ndarray, "batch num_samples *shape"]:
    """Samples of each observation's posterior, after checks that they have the parameters' shape and are finite."""
    if hasattr(posterior, "sample_each"):
        samples = np.asarray(posterior.sample_each(x, num_samples, key=key))
    else:
        keys = jax.random.split(key, len(x))
        samples = np.stack(
            [np.asarray(posterior.sample(row, num_samples, key=one)) for row, one in zip(x, keys, strict=True)]
        )
    wanted = (len(x), num_samples, *shape)
    if samples.shape != wanted:
        raise ValueError(f"`posterior` gave samples of shape {samples.shape} where {wanted} is needed, as `theta` says")
    bad = ~np.isfinite(samples).reshape(len(x), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"`posterior` gave samples that are not finite for {bad.sum()} observations: {_rows(bad)}")
    return samples


def log_prob_of_each(
    posterior: PosteriorLike, theta: Float[np.ndarray, "batch n *shape"], x: Observations
) -> Float[np.ndarray, "batch n"]:
    """Log-densities of parameters given each observation, after a check that none is NaN."""
    if hasattr(posterior, "log_prob_each"):
        values = np.asarray(posterior.log_prob_each(theta, x))
    elif hasattr(posterior, "log_prob"):
        values = np.stack([np.asarray(posterior.log_prob(rows, one)) for rows, one in zip(theta, x, strict=True)])
    else:
        raise TypeError("`posterior` has no method `log_prob`: this check needs densities; `sbc` and `tarp` do not")
    if values.shape != theta.shape[:2]:
        raise ValueError(f"`posterior` gave log-densities of shape {values.shape} where {theta.shape[:2]} is needed")
    bad = np.isnan(values).any(axis=1)
    if bad.any():
        raise ValueError(f"`posterior` gave log-densities that are NaN for {bad.sum()} observations: {_rows(bad)}")
    return values


def _rows(bad: Shaped[np.ndarray, " batch"]) -> str:
    first = np.flatnonzero(bad)
    return f"rows {', '.join(map(str, first[:5]))}{', ...' if len(first) > 5 else ''} of `x`"
