"""The sliced Wasserstein distance: a mean over random projections onto lines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._types import PRNGKey, Scalar, check_key, check_positive, checked
from ._samples import FirstSample, SecondSample, arrays, check_at_least


#: For each piece of [0, 1], the index of the step of a quantile function that contains it.
Steps = Int[np.ndarray, " pieces"]


@checked
def sliced_wasserstein(
    a: FirstSample, b: SecondSample, *, num_projections: int = 256, key: PRNGKey
) -> Float[Array, ""]:
    """The sliced 2-Wasserstein distance between two samples: the distance, not its square.

    `SW2(a, b)^2` is the mean, over random directions, of the squared `W2` distance between the samples projected onto
    the direction ([Bonneel et al. 2015](https://doi.org/10.1007/s10851-014-0506-3)). The directions are
    uniform on the unit sphere. There is no factor for the dimension: two samples that differ by a shift `s` in d
    dimensions have the distance `|s| / sqrt(d)`. On each line the distance is exact, as the distance between the two
    quantile functions, and the samples may differ in size.

    It needs memory for `num_projections (n + m)` numbers.

    **Arguments:**

    - `a`: the first sample, `(n, *shape)`. Points of any shape are treated as vectors.
    - `b`: the second sample, `(m, *shape)`.
    - `num_projections`: the number of random directions. The relative error is proportional to
        `1 / sqrt(num_projections)`. By default 256.
    - `key`: a typed key, for the directions.

    **Returns:** a scalar, in the units of the points.

    **Raises:** `ValueError` if a sample is empty or not finite, or `num_projections` is not positive; `TypeError` if
    `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax

    key_a, key = jax.random.split(jax.random.key(0))
    a = jax.random.normal(key_a, (50, 2))
    distance = fp.metrics.sliced_wasserstein(a, a + 2, key=key)
    print(bool(abs(distance - 2) < 0.2))  # True
    ```
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
    # The default precision of matrix products on a GPU is only about three digits.
    project = functools.partial(jnp.matmul, directions, precision="highest")
    difference = jnp.sort(project(a.T))[:, rows] - jnp.sort(project(b.T))[:, partners]
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(difference) * jnp.asarray(shares, a.dtype)[None], axis=1)))


def _pieces(n: int, m: int) -> tuple[Steps, Steps, Float[np.ndarray, " pieces"]]:
    """The pieces on which two quantile functions of `n` and `m` steps are constant: the steps, and the length."""
    ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))  # in units of 1 / (n m)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)
