"""A Wasserstein distance by projections onto lines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._types import PRNGKey, Scalar, check_key, check_positive, checked
from ._samples import FirstSample, SecondSample, arrays, check_at_least


#: For each piece of [0, 1] the step of a quantile function that it lies in.
Steps = Int[np.ndarray, " pieces"]


@checked
def sliced_wasserstein(
    a: FirstSample, b: SecondSample, *, num_projections: int = 256, key: PRNGKey
) -> Float[Array, ""]:
    """The sliced 2-Wasserstein distance between two samples: the distance, not its square.

    `SW2(a, b)^2` is the mean, over directions uniform on the unit sphere, of the squared `W2` between the samples
    projected onto that direction (Bonneel et al. 2015), estimated by `num_projections` draws. There is no
    factor for the dimension: two samples that differ by a shift `s` in d dimensions are `|s| / sqrt(d)` apart.
    On a line the distance is exact, between the samples' quantile functions, which need not be equally large.

    Takes memory for `num_projections (n + m)` numbers.

    **Arguments:**

    - `a`, `b`: samples `(n, *shape)` and `(m, *shape)` of points of any one shape, taken as vectors.
    - `num_projections`: how many directions are drawn; the relative error falls as their root.
    - `key`: for the directions.

    **Returns:** a scalar, in the units of the points.

    **Raises:** `ValueError` if a sample is empty or not finite, or `num_projections` is not positive.
    """
    check_key("key", key)
    check_positive(num_projections=num_projections)
    check_at_least(1, a=a, b=b)
    first, second = arrays(a, b)
    return _sliced_wasserstein(first, second, num_projections, key)


@functools.partial(jax.jit, static_argnames="num_projections")
def _sliced_wasserstein(
    a: Float[Array, "n dim"], b: Float[Array, "m dim"], num_projections: int, key: PRNGKey
) -> Scalar:
    directions = jax.random.normal(key, (num_projections, a.shape[1]), a.dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    rows, partners, shares = _pieces(len(a), len(b))
    # A GPU's matrix products would else keep three digits.
    project = functools.partial(jnp.matmul, directions, precision="highest")
    difference = jnp.sort(project(a.T))[:, rows] - jnp.sort(project(b.T))[:, partners]
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(difference) * jnp.asarray(shares, a.dtype)[None], axis=1)))


def _pieces(n: int, m: int) -> tuple[Steps, Steps, Float[np.ndarray, " pieces"]]:
    """Where two quantile functions of `n` and `m` steps are both constant: the step of each, and the piece's length."""
    ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))  # in units of 1 / (n m)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)
