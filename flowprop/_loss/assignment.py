"""Optimal transport between two batches: the best permutation, and the entropic plan."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .._types import Real


#: The cost of each pair: noise in rows, data in columns.
Cost = Float[Array, "batch batch"]


def log_plan(cost: Cost, epsilon: Real, tolerance: Real, max_iterations: int) -> Cost:
    """Logarithms of the plan `P` that minimises `sum P cost - epsilon H(P)`, with columns that sum to `1 / batch`.

    It is found by Sinkhorn's iterations on the potentials `f` and `g` of `P = exp((f_i + g_j - cost_ij) / epsilon)`,
    which stay finite for a small `epsilon` ([Peyre & Cuturi 2019](https://arxiv.org/abs/1803.00567), section 4.4). The
    iterations stop when the total error of the rows' sums is at most `tolerance`, or after `max_iterations`.
    """
    cost = cost / epsilon
    share = -jnp.log(cost.dtype.type(len(cost)))
    State = tuple[Array, Array, Array, Array]

    def goes_on(state: State) -> Array:
        _, _, error, count = state
        return (error > tolerance) & (count < max_iterations)

    def iterate(state: State) -> State:
        f, g, _, count = state
        new = share - jax.nn.logsumexp(g[None, :] - cost, axis=1)
        # Row i of the plan of the old f sums to exp(f - new) / batch; its columns are exact.
        error = jnp.mean(jnp.abs(jnp.expm1(f - new)))
        return new, columns(new), error, count + 1

    def columns(f: Array) -> Array:
        return share - jax.nn.logsumexp(f[:, None] - cost, axis=0)

    f = jnp.zeros(len(cost), cost.dtype)
    start = (f, columns(f), jnp.asarray(jnp.inf, cost.dtype), jnp.zeros((), jnp.int32))
    f, g, _, _ = jax.lax.while_loop(goes_on, iterate, start)
    return f[:, None] + g[None, :] - cost


def best_rows(cost: Cost) -> Int[Array, " batch"]:
    """For each column its row, in the assignment with the least total cost."""
    # A constant added to a row or a column does not change the optimum. A few Sinkhorn scalings, with an entropy that
    # is lowered in stages, bring the costs of good pairs close to 0. The search is then over ten times faster.
    cost = cost - jnp.min(cost, axis=1, keepdims=True)
    mean = jnp.mean(cost, where=jnp.isfinite(cost))

    def stage(cost: Cost, epsilon: Array) -> tuple[Cost, None]:
        kernel = jnp.exp(-cost / epsilon)

        def scale(_: Array, scales: tuple[Array, Array]) -> tuple[Array, Array]:
            u = 1 / (kernel @ scales[1] + 1e-30)
            return u, 1 / (u @ kernel + 1e-30)

        ones = jnp.ones(len(cost), cost.dtype)
        u, v = jax.lax.fori_loop(0, 6, scale, (ones, ones))
        return cost - epsilon * (jnp.log(u)[:, None] + jnp.log(v)[None, :]), None

    reduced, _ = jax.lax.scan(stage, cost, mean * 0.1 * 0.3 ** jnp.arange(4, dtype=cost.dtype) + 1e-30)
    # Not SciPy's on the host: on a machine with one core, a callback with such large arrays never returns
    # (jax-ml/jax#24255).
    rows, columns = optax.assignment.hungarian_algorithm(reduced)
    return jnp.zeros(len(cost), jnp.int32).at[columns].set(rows.astype(jnp.int32))
