"""How noise is paired with data in a training batch."""

import abc
import warnings
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._types import PRNGKey, Real, check_positive, check_shape, checked


Batch = Float[Array, "batch *shape"]
#: Of noise in rows with data in columns.
Cost = Float[Array, "batch batch"]


class AbstractCoupling(eqx.Module):
    """A joint distribution of noise and data whose marginals are those of the batch.

    A flow trained on it carries `p(z_0)` to `p(z_1)` whatever it is: the coupling chooses how straight.
    Given a condition that holds only as long as the noise does not tell of it, `p(z_0 | x) = p(z_0)`.
    A coupling says by `is_independent` whether it leaves noise and data independent.
    """

    is_independent: ClassVar[bool] = False

    @abc.abstractmethod
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        """The noise, rearranged: its rows go with the rows of the data `z1` and of their conditions `x`.

        **Raises:** `ValueError` if `z1` has not the shape of `z0`.
        """


class IndependentCoupling(AbstractCoupling):
    """Noise and data as they come: the coupling of diffusion, and of flow matching's first form."""

    is_independent: ClassVar[bool] = True

    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        return z0


class OTCoupling(AbstractCoupling):
    """Exact optimal transport within the batch: the permutation of least `sum_i |z0_i - z1_i|^2`.

    (BatchOT, Pooladian et al. 2023; OT-CFM, Tong et al. 2024.) Flows become straight, and the loss less noisy.

    **For flows without a condition.** It pairs a point with noise that lies near it, so that the noise tells of
    the point's condition: `p(z_0 | x)` is not `p(z_0)`, from which a sample given `x` is to start (Cheng and
    Schwing 2025). [`flowprop.ConditionalOTCoupling`][] avoids this.

    The assignment is found on the device by the Hungarian algorithm, started from rough Sinkhorn potentials. Its cost
    grows about as the cube of the batch: 5 ms at 256 and 30 ms at 512 on one core.
    """

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        return z0[_best_rows(_squared_distances(z0, z1))]


@checked
class SinkhornCoupling(AbstractCoupling):
    """Entropic optimal transport within the batch: each point draws its noise from the plan, given the point.

    The plan minimises `E |z0 - z1|^2 - epsilon H`, with `H` its entropy (Cuturi 2013): the exact one for
    `epsilon` towards 0, the independent one for a large `epsilon`, with the bridge of a Brownian motion of
    variance `epsilon / 2` in between ([SF]2M, arXiv:2307.03672). Found by ott-jax, on the device: `pip install
    "flowprop[ot]"`. For flows without a condition, for the same reason as [`flowprop.OTCoupling`][].

    **Arguments:**

    - `epsilon`: in units of `|z|^2`, positive. Small ones take more iterations, about in proportion to `1 / epsilon`.
    - `tolerance`: by how much the weights of the rows of noise may be wrong, all together; they sum to 1.
    - `max_iterations`: where to stop all the same.

    **Raises:** `ValueError` if an argument is not positive, `ImportError` where ott-jax is missing.
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
        plan = _sinkhorn(cost, self.epsilon, self.tolerance, self.max_iterations)
        return z0[jax.random.categorical(key, plan, axis=0)]


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


def _sinkhorn(cost: Cost, epsilon: Real, tolerance: Real, max_iterations: int) -> Cost:
    """Logarithms of the entropic plan, to within a constant."""
    try:
        with warnings.catch_warnings():
            # Of one of its own dependencies.
            warnings.filterwarnings("ignore", "JAXopt", DeprecationWarning)
            from ott.geometry.geometry import Geometry
            from ott.problems.linear.linear_problem import LinearProblem
            from ott.solvers.linear.sinkhorn import Sinkhorn
    except ImportError as error:
        raise ImportError("`SinkhornCoupling` needs ott-jax: `pip install 'flowprop[ot]'`") from error
    solver = Sinkhorn(threshold=tolerance, max_iterations=max_iterations)
    # It promotes ranks, which one may have forbidden for one's own arrays.
    with jax.numpy_rank_promotion("allow"):
        plan = solver(LinearProblem(Geometry(cost, epsilon=epsilon)))
    return (plan.f[:, None] + plan.g[None, :] - cost) / epsilon


def _best_rows(cost: Cost) -> Int[Array, " batch"]:
    """For each column its row, in the assignment of least total cost."""
    # What is added to a whole row or column moves no optimum. A few of Sinkhorn's scalings, at an entropy that is
    # lowered stage by stage, bring the costs of good pairs near to 0, where the search is then over ten times faster.
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
    # Not SciPy's, on the host: where there is one core, a callback that large waits for ever (JAX's issue 24255).
    rows, columns = optax.assignment.hungarian_algorithm(reduced)
    return jnp.zeros(len(cost), jnp.int32).at[columns].set(rows.astype(jnp.int32))
