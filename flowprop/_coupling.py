"""How noise is paired with data in a training batch."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._types import PRNGKey, Real, check_positive, check_shape, checked


Batch = Float[Array, "batch *shape"]
#: Of noise in rows with data in columns.
Cost = Float[Array, "batch batch"]


class AbstractCoupling(eqx.Module):
    """A joint distribution of noise and data whose marginals are those of the batch.

    A flow trained on it carries `p(z_0)` to `p(z_1)` whatever it is: the coupling chooses how straight.
    Given a condition that holds only as long as the noise does not tell of it, `p(z_0 | x) = p(z_0)`.
    """

    @abc.abstractmethod
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        """The noise, rearranged: its rows go with the rows of the data `z1` and of their conditions `x`.

        **Raises:** `ValueError` if `z1` has not the shape of `z0`.
        """


class IndependentCoupling(AbstractCoupling):
    """Noise and data as they come: the coupling of diffusion, and of flow matching's first form."""

    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        return z0


class OTCoupling(AbstractCoupling):
    """Exact optimal transport within the batch: the permutation of least `sum_i |z0_i - z1_i|^2`.

    (BatchOT, Pooladian et al. 2023; OT-CFM, Tong et al. 2024.) Flows become straight, and the loss less noisy.

    **For flows without a condition.** It pairs a point with noise that lies near it, so that the noise tells of
    the point's condition: `p(z_0 | x)` is not `p(z_0)`, from which a sample given `x` is to start (Cheng and
    Schwing 2025). [`flowprop.ConditionalOTCoupling`][] avoids this.

    The assignment is found by SciPy on the host, one after the other under `jax.vmap`.
    """

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        return z0[_best_rows(_squared_distances(z0, z1))]


@checked
class SinkhornCoupling(AbstractCoupling):
    """Entropic optimal transport within the batch: each point draws its noise from the plan, given the point.

    The plan minimises `E |z0 - z1|^2 - epsilon H`, with `H` its entropy (Cuturi 2013): the exact one for
    `epsilon` towards 0, the independent one for a large `epsilon`, with the bridge of a Brownian motion of
    variance `epsilon / 2` in between ([SF]2M, arXiv:2307.03672). It runs on the device, and is for flows without a
    condition for the same reason as [`flowprop.OTCoupling`][].

    **Arguments:**

    - `epsilon`: in units of `|z|^2`, positive. Small ones take more iterations, about in proportion to `1 / epsilon`.
    - `tolerance`: the relative error allowed in the weight of each row of noise.
    - `max_iterations`: where to stop all the same.

    **Raises:** `ValueError` if an argument is not positive.
    """

    epsilon: Real
    tolerance: Real = 0.01
    max_iterations: int = 1000

    def __check_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("tolerance", self.tolerance)):
            if not value > 0:
                raise ValueError(f"`{name}` is {value}: give a positive number")
        check_positive(max_iterations=self.max_iterations)

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        cost = _squared_distances(z0, z1)
        f = _potential(cost, self.epsilon, self.tolerance, self.max_iterations)
        return z0[jax.random.categorical(key, (f[:, None] - cost) / self.epsilon, axis=0)]


class AbstractConditionCost(eqx.Module):
    """What it costs to pair noise of one condition with data of another."""

    @abc.abstractmethod
    def add(self, cost: Cost, x: PyTree) -> Cost:
        """The cost of noise `i` with data `j`, with that of the conditions `x[i]` and `x[j]`: none for equal ones."""


class ClassCost(AbstractConditionCost):
    """Different conditions never meet: optimal transport within each class. No bias is left.

    For labels as integers, one-hot or embedded. Where every condition is another, nothing is left to choose,
    and the coupling becomes independent.
    """

    def add(self, cost: Cost, x: PyTree) -> Cost:
        return jnp.where(_different(x), jnp.inf, cost)


@checked
class DistanceCost(AbstractConditionCost):
    """`w |x_i - x_j|^2`, for conditions that vary continuously: noise meets data of about its condition.

    In each batch the weight `w` is such that of all pairs the fraction `ratio` costs no more than the data's own, the
    noise that came with it (Cheng and Schwing 2025, section 3). A small ratio leaves little bias, a large one
    straight paths. The scale of the conditions does not matter, that of one component against another does.

    **Arguments:**

    - `ratio`: between 0 and 1.

    **Raises:** `ValueError` if `ratio` is not.
    """

    ratio: Real = 0.05

    def __check_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"`ratio` is {self.ratio}: a fraction of all pairs lies between 0 and 1")

    def add(self, cost: Cost, x: PyTree) -> Cost:
        rows = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)]
        vectors = jnp.concatenate(rows, axis=1).astype(cost.dtype)
        distances = jnp.where(_different(x), _squared_distances(vectors, vectors), 0)
        # In units in which 1 is a sensible weight.
        distances *= jnp.mean(cost) / jnp.maximum(jnp.mean(distances), 1e-30)

        def with_weight(exponent: Array) -> Cost:
            return cost + 2**exponent * distances

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) / 2
            light = jnp.mean(with_weight(middle) <= jnp.diagonal(cost)[None, :]) > self.ratio
            return jnp.where(light, middle, low), jnp.where(light, high, middle)

        bounds = (jnp.asarray(-20, cost.dtype), jnp.asarray(20, cost.dtype))
        return with_weight(jax.lax.fori_loop(0, 20, halve, bounds)[1])


@checked
class ConditionalOTCoupling(AbstractCoupling):
    """Optimal transport that leaves the noise ignorant of the condition (C2OT, Cheng and Schwing 2025).

    Plain optimal transport gives the data of a condition the noise that lies nearest, so that the flow given `x` is
    trained from `p(z_0 | x)` and sampled from `p(z_0)`: regions of noise that it never saw. Here the noise is given
    random conditions, those of the batch, and to pair it with data of another costs: `|z0 - z1|^2` and what
    `condition_cost` adds. The noise near a class of data then is that of its own condition, all of it.

    **Arguments:**

    - `condition_cost`: [`flowprop.ClassCost`][]`()` for classes, the default, or
      [`flowprop.DistanceCost`][]`()` for conditions that vary continuously.
    """

    condition_cost: AbstractConditionCost = ClassCost()

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        if not jax.tree.leaves(x):
            raise ValueError("`x` is empty where the coupling compares conditions: `fp.OTCoupling()` needs none")
        for leaf in jax.tree.leaves(x):
            if jnp.shape(leaf)[:1] != z0.shape[:1]:
                raise ValueError(
                    f"`x` has a leaf of shape {jnp.shape(leaf)} where the batch has {len(z0)} examples: "
                    "every leaf of a batch's condition carries the batch axis first"
                )
        # Shuffled, row i takes the i-th condition by chance, in whatever order the noise came.
        z0 = jax.random.permutation(key, z0)
        return z0[_best_rows(self.condition_cost.add(_squared_distances(z0, z1), x))]


def _squared_distances(z0: Float[Array, "batch ..."], z1: Float[Array, "..."]) -> Cost:
    """`|z0_i - z1_j|^2`: by a product of matrices, for differences would be as many times larger as a point is."""
    check_shape("z1", z1, z0.shape, "noise and data of one batch have the same shape")
    dtype = jnp.promote_types(jnp.result_type(z0, z1), jnp.float32)
    a, b = (jnp.reshape(z, (len(z), -1)).astype(dtype) for z in (z0, z1))
    # About their centre, where little is lost to cancellation.
    centre = jnp.mean(b, axis=0, keepdims=True)
    a, b = a - centre, b - centre
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :]
    return jax.lax.stop_gradient(jnp.maximum(squares - 2 * product, 0))


def _different(x: PyTree) -> Bool[Array, "batch batch"]:
    """Whether two conditions differ, in any number of any leaf."""
    vectors = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)]
    return jnp.any(jnp.stack([jnp.any(v[:, None] != v[None], axis=-1) for v in vectors]), axis=0)


def _potential(cost: Cost, epsilon: Real, tolerance: Real, max_iterations: int) -> Float[Array, " batch"]:
    """`f` such that `exp((f_i - cost_ij) / epsilon)`, its columns made to sum to 1, is the entropic plan.

    By Sinkhorn's iterations; its rows then sum to 1 within `tolerance`.
    """

    def iterate(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        f, _, count = state
        g = -epsilon * jax.nn.logsumexp((f[:, None] - cost) / epsilon, axis=0)
        # The rows sum to 1 again; what they had come to is the exponential of what this changes.
        new = -epsilon * jax.nn.logsumexp((g[None, :] - cost) / epsilon, axis=1)
        return new, jnp.max(jnp.abs(new - f)) / epsilon, count + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return (state[1] > tolerance) & (state[2] < max_iterations)

    start = (jnp.zeros(len(cost), cost.dtype), jnp.asarray(jnp.inf, cost.dtype), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, iterate, start)[0]


def _best_rows(cost: Cost) -> Int[Array, " batch"]:
    """For each column its row, in the assignment of least total cost."""
    # What is added to a whole row or column moves no optimum. A few of Sinkhorn's scalings, rough as they are, bring
    # the costs of good pairs near to 0, and the search is then some five times faster.
    cost = cost - jnp.min(cost, axis=1, keepdims=True)
    epsilon = 0.05 * jnp.mean(cost, where=jnp.isfinite(cost)) + 1e-30
    kernel = jnp.exp(-cost / epsilon)

    def scale(_: Array, scales: tuple[Array, Array]) -> tuple[Array, Array]:
        u = 1 / (kernel @ scales[1] + 1e-30)
        return u, 1 / (u @ kernel + 1e-30)

    ones = jnp.ones(len(cost), cost.dtype)
    u, v = jax.lax.fori_loop(0, 20, scale, (ones, ones))
    reduced = cost - epsilon * (jnp.log(u)[:, None] + jnp.log(v)[None, :])
    rows = jax.ShapeDtypeStruct((len(cost),), jnp.int32)
    return jax.pure_callback(_assign, rows, reduced, vmap_method="sequential")


def _assign(cost: Array) -> Int[np.ndarray, " batch"]:
    """On the host, where nothing of JAX may be called."""
    from scipy.optimize import linear_sum_assignment

    array = np.asarray(cost)
    # The loss will be NaN as well, and whoever trains told so.
    columns = np.arange(len(array)) if np.isnan(array).any() else linear_sum_assignment(array.T)[1]
    return columns.astype(np.int32)
