"""The maximum mean discrepancy between two samples."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Real, Scalar, checked
from ._samples import FirstSample, SecondSample, arrays, check_at_least


#: The number of points of each sample that the median heuristic uses.
_FOR_MEDIAN = 500


@checked
def mmd(a: FirstSample, b: SecondSample, *, bandwidths: Sequence[Real] | None = None) -> Float[Array, ""]:
    """The unbiased estimate of the squared maximum mean discrepancy between two samples.

    `1/(n(n-1)) sum_{i != j} k(a_i, a_j) + 1/(m(m-1)) sum_{i != j} k(b_i, b_j) - 2/(nm) sum_ij k(a_i, b_j)`
    ([Gretton et al. 2012](https://jmlr.org/papers/v13/gretton12a.html), eq. 3), with the kernel
    `k(x, y) = mean_h exp(-|x - y|^2 / (2 h^2))` over the bandwidths `h`. Its expectation is 0 if both samples come from
    one distribution, and positive otherwise. The estimate itself may be negative.

    All pairs of points are compared, one row of the three kernel matrices at a time. This takes time `O((n + m)^2 d)`
    and memory `O((n + m) d)`.

    **Arguments:**

    - `a`: the first sample, `(n, *shape)`. Points of any shape are treated as vectors.
    - `b`: the second sample, `(m, *shape)`.
    - `bandwidths`: the bandwidths of the kernel, in the units of the points. By default one bandwidth: the median
        distance between the first 500 points of both samples together (the median heuristic). Only compare values with
        the same bandwidths.

    **Returns:** a scalar without units.

    **Raises:** `ValueError` if a sample has fewer than two points or is not finite, or a bandwidth is not positive; a
    run-time error if most points are equal, so that the median distance is 0.

    ```python
    import flowprop as fp
    import jax

    key_a, key_b = jax.random.split(jax.random.key(0))
    a, b = jax.random.normal(key_a, (50, 2)), 2 + jax.random.normal(key_b, (50, 2))
    print(bool(fp.metrics.mmd(a, b) > 0.1))  # True
    print(bool(fp.metrics.mmd(a, b - 2) < 0.1))  # True
    ```
    """
    check_at_least(2, a=a, b=b)
    if bandwidths is not None and not (len(bandwidths) > 0 and all(0 < width < math.inf for width in bandwidths)):
        raise ValueError(f"`bandwidths` is {bandwidths}: give positive distances, or None for the median heuristic")
    first, second = arrays(a, b)
    return _mmd(first, second, None if bandwidths is None else jnp.asarray(bandwidths, first.dtype))


@eqx.filter_jit
def _mmd(a: Float[Array, "n dim"], b: Float[Array, "m dim"], bandwidths: Float[Array, " widths"] | None) -> Scalar:
    widths = _median_distance(a, b)[None] if bandwidths is None else bandwidths

    def row_sums(x: Float[Array, "n dim"], y: Float[Array, "m dim"]) -> Float[Array, " n"]:
        def kernels(point: Float[Array, " dim"]) -> Scalar:
            # |x|^2 + |y|^2 - 2 x y would lose its digits by cancellation in single precision.
            squares = jnp.sum(jnp.square(point[None] - y), axis=1)
            return jnp.mean(jnp.sum(jnp.exp(-squares[None] / (2 * jnp.square(widths[:, None]))), axis=1))

        return jax.lax.map(kernels, x)

    # The kernel of a point with itself is 1.
    within = sum(jnp.mean(row_sums(x, x) - 1) / (len(x) - 1) for x in (a, b))
    return within - 2 * jnp.mean(row_sums(a, b)) / len(b)


def _median_distance(a: Float[Array, "n dim"], b: Float[Array, "m dim"]) -> Scalar:
    points = jnp.concatenate([a[:_FOR_MEDIAN], b[:_FOR_MEDIAN]])
    squares = jax.lax.map(lambda point: jnp.sum(jnp.square(point[None] - points), axis=1), points)
    median = jnp.sqrt(jnp.median(squares[np.triu_indices(len(points), 1)]))
    message = "most points of `a` and `b` are equal, so that the median distance is 0: give `bandwidths`"
    return eqx.error_if(median, median == 0, message)
