"""How noise is paired with data in a training batch."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ._assignment import Cost, best_rows, log_plan
from ._types import PRNGKey, Real, check_number, check_positive, check_shape, checked


Batch = Float[Array, "batch *shape"]


class AbstractCoupling(eqx.Module):
    """A joint distribution of noise and data whose marginals are those of the batch.

    Any coupling with these marginals trains a valid flow; the choice only affects how straight its paths are. With a
    condition `x`, the noise paired with a condition must also be independent of it: `p(z_0 | x) = p(z_0)`. A coupling
    of your own defines `pair`.
    """

    #: Whether noise is independent of data: an SDE, an ancestral step and a score need that.
    is_independent: ClassVar[bool] = False

    @abc.abstractmethod
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        """The noise, rearranged: its rows go with the rows of the data `z1` and of their conditions `x`.

        **Arguments:**

        - `z0`: a batch of noise, `(n, *shape)`.
        - `z1`: a batch of data of the same shape.
        - `x`: the conditions of the data, each leaf with the batch axis; `None` if there are none.
        - `key`: for a random choice of pairs.

        **Returns:** rows of `z0`, `(n, *shape)`.

        **Raises:** `ValueError` if `z1` has not the shape of `z0`, or the coupling cannot be used with `x`.
        """


class IndependentCoupling(AbstractCoupling):
    """Noise and data as they come: the coupling of diffusion, and the first one of flow matching.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), coupling=fp.IndependentCoupling())
    ```
    """

    is_independent: ClassVar[bool] = True

    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        return z0


@checked
class OTCoupling(AbstractCoupling):
    """Exact optimal transport within the batch: the permutation of least `sum_i |z0_i - z1_i|^2`.

    (BatchOT, Pooladian et al. 2023, [arXiv:2304.14772](https://arxiv.org/abs/2304.14772); OT-CFM, Tong et al. 2024,
    [arXiv:2302.00482](https://arxiv.org/abs/2302.00482).) Flows become straight, and the loss less noisy.

    It is for flows without a condition, and refuses one. It pairs a point with noise near it, so that the noise
    depends on the point's condition: `p(z_0 | x)` is not `p(z_0)`, from which a sample given `x` starts (Cheng &
    Schwing 2025, [arXiv:2503.10636](https://arxiv.org/abs/2503.10636)). [`flowprop.ConditionalOTCoupling`][] avoids
    this.

    The assignment is found on the device by the Hungarian algorithm, started from rough Sinkhorn potentials. Its cost
    grows about as the cube of the batch: 5 ms at 256 and 30 ms at 512 on one core.

    **Arguments:**

    - `ignore_condition`: accept conditions all the same, with the bias; to show what it costs, for example.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), coupling=fp.OTCoupling())
    ```
    """

    ignore_condition: bool = eqx.field(default=False, static=True)

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        _refuse_condition(self, x, self.ignore_condition)
        return z0[best_rows(_squared_distances(z0, z1))]


@checked
class SinkhornCoupling(AbstractCoupling):
    """Entropic optimal transport within the batch: each point draws its noise from the plan, given the point.

    The plan minimises `E |z0 - z1|^2 - epsilon H`, with `H` its entropy (Cuturi 2013,
    [arXiv:1306.0895](https://arxiv.org/abs/1306.0895)): the exact one as `epsilon` tends to 0, the independent one
    for a large `epsilon`, and in between that of a Brownian bridge of variance `epsilon / 2` ([SF]2M, Tong et al.
    2024, [arXiv:2307.03672](https://arxiv.org/abs/2307.03672)). It is found by Sinkhorn's iterations on logarithms,
    on the device.

    Each point of the data is always paired with exactly one row of noise. If the iterations stop at `max_iterations`
    before they reach `tolerance`, some rows of noise are drawn too often and others too rarely, without a message:
    for a small `epsilon` give more iterations.

    It is for flows without a condition, and refuses one, for the same reason as [`flowprop.OTCoupling`][].

    **Arguments:**

    - `epsilon`: in units of `|z|^2`, positive. Small ones take more iterations, about in proportion to `1 / epsilon`.
    - `tolerance`: the iterations stop when the weights of the rows of noise are wrong by no more than this, summed over
      the rows; the weights sum to 1. Positive.
    - `max_iterations`: where to stop in any case. Positive.
    - `ignore_condition`: accept conditions all the same, with the bias.

    **Raises:** `ValueError` if an argument is not positive.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), coupling=fp.SinkhornCoupling(epsilon=0.5))
    ```
    """

    epsilon: Real
    tolerance: Real = 0.01
    max_iterations: int = 1000
    ignore_condition: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        check_number("epsilon", self.epsilon, above=0, remedy="give a positive number")
        check_number("tolerance", self.tolerance, above=0, remedy="give a positive number")
        check_positive(max_iterations=self.max_iterations)

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        _refuse_condition(self, x, self.ignore_condition)
        plan = log_plan(_squared_distances(z0, z1), self.epsilon, self.tolerance, self.max_iterations)
        return z0[jax.random.categorical(key, plan, axis=0)]


class AbstractConditionCost(eqx.Module):
    """What it costs to pair noise of one condition with data of another."""

    @abc.abstractmethod
    def add(self, cost: Cost, x: PyTree) -> Cost:
        """The cost of noise `i` with data `j`, with that of the conditions `x[i]` and `x[j]`: none for equal ones."""


class ClassCost(AbstractConditionCost):
    """Different conditions never meet: optimal transport within each class. No bias is left.

    For labels as integers, one-hot or embedded. If all conditions in a batch differ, only one assignment has a finite
    cost, and the coupling becomes the independent one.

    ```python
    import flowprop as fp

    coupling = fp.ConditionalOTCoupling(fp.ClassCost())
    ```
    """

    def add(self, cost: Cost, x: PyTree) -> Cost:
        return jnp.where(_different(x), jnp.inf, cost)


@checked
class DistanceCost(AbstractConditionCost):
    """`w |x_i - x_j|^2`, for conditions that vary continuously: noise meets data of about its condition.

    In each batch the weight `w` is chosen so that the fraction `ratio` of all pairs costs no more than the data's own
    pair, the noise that came with it (Cheng & Schwing 2025, [arXiv:2503.10636](https://arxiv.org/abs/2503.10636),
    section 3). A small ratio leaves little bias, a large one straight paths. The scale of the conditions does not
    matter; that of one component relative to another does.

    **Arguments:**

    - `ratio`: between 0 and 1.

    **Raises:** `ValueError` if `ratio` is not.

    ```python
    import flowprop as fp

    coupling = fp.ConditionalOTCoupling(fp.DistanceCost(0.05))
    ```
    """

    ratio: Real = 0.05

    def __check_init__(self) -> None:
        check_number("ratio", self.ratio, above=0, below=1, remedy="a fraction of all pairs lies between 0 and 1")

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
    """Optimal transport that keeps the noise independent of the condition.

    (C2OT, Cheng & Schwing 2025, [arXiv:2503.10636](https://arxiv.org/abs/2503.10636).) Plain optimal transport gives
    the data of a condition the noise that lies nearest. The flow given `x` is then trained from `p(z_0 | x)` and
    sampled from `p(z_0)`, which has regions of noise that it never saw. Here the noise is given random conditions,
    those of the batch, and to pair it with data of another condition costs: `|z0 - z1|^2` plus what `condition_cost`
    adds. The noise paired with a class of data is then that of its own condition, all of it.

    **Arguments:**

    - `condition_cost`: [`flowprop.ClassCost`][]`()` for classes, the default, or
      [`flowprop.DistanceCost`][]`()` for conditions that vary continuously.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), coupling=fp.ConditionalOTCoupling())
    ```
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
        return z0[best_rows(self.condition_cost.add(_squared_distances(z0, z1), x))]


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


def _refuse_condition(coupling: AbstractCoupling, x: PyTree, ignore: bool) -> None:
    if jax.tree.leaves(x) and not ignore:
        name = type(coupling).__name__
        raise ValueError(
            f"`x` is given and `coupling` is {name}, which makes noise depend on the condition and biases samples: "
            "give `fp.ConditionalOTCoupling()`, or accept the bias with `ignore_condition=True`"
        )
