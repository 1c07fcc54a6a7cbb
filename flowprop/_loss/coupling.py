"""The pairing of noise with data in a training batch: independent, or by minibatch optimal transport."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import PRNGKey, Real, check_number, check_positive, checked
from .assignment import best_rows, log_plan
from .condition_cost import AbstractConditionCost, Batch, ClassCost, squared_distances


class AbstractCoupling(eqx.Module):
    """A joint distribution of noise and data. Its marginals are those of the batch. Usual name: minibatch pairing.

    Any coupling with these marginals trains a valid flow; the choice only affects how straight its paths are. With a
    condition `x`, the noise paired with a condition must also be independent of it: `p(z_0 | x) = p(z_0)`. A coupling
    of your own defines `pair`.
    """

    #: Whether noise is independent of data. An SDE, an ancestral step and a score need this.
    is_independent: ClassVar[bool] = False

    @abc.abstractmethod
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        """The noise, rearranged: row `i` is paired with row `i` of the data `z1` and of their conditions `x`.

        **Arguments:**

        - `z0`: a batch of noise, `(n, *shape)`.
        - `z1`: a batch of data of the same shape.
        - `x`: the conditions of the data, each leaf with the batch axis; `None` if there are none.
        - `key`: one typed key, for a random choice of pairs.

        **Returns:** rows of `z0`, `(n, *shape)`.

        **Raises:** `ValueError` if `z1` does not have the shape of `z0`, or if the coupling cannot be used with `x`.
        """


class IndependentCoupling(AbstractCoupling):
    """Noise and data are paired at random: the coupling of diffusion models and of plain flow matching.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,), coupling=fp.IndependentCoupling())
    ```
    """

    is_independent: ClassVar[bool] = True

    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        return z0


@checked
class OTCoupling(AbstractCoupling):
    """Exact optimal transport within the batch: the permutation that minimises `sum_i |z0_i - z1_i|^2`.

    (BatchOT, [Pooladian et al. 2023](https://arxiv.org/abs/2304.14772); OT-CFM, [Tong et al.
    2024](https://arxiv.org/abs/2302.00482); minibatch OT.) The paths of the flow become straighter, and the loss less
    noisy.

    This coupling is for flows without a condition, and raises an error if there is one. It pairs a point with noise
    near it, so the noise depends on the point's condition: `p(z_0 | x)` is not `p(z_0)`, in which samples given `x`
    start ([Cheng & Schwing 2025](https://arxiv.org/abs/2503.10636)). [`flowprop.ConditionalOTCoupling`][] avoids this.

    The assignment is found on the device by the Hungarian algorithm, started from approximate Sinkhorn potentials. Its
    cost grows about as the cube of the batch size: 5 ms at 256 and 30 ms at 512 on one core.

    **Arguments:**

    - `ignore_condition`: accept conditions nevertheless, with the bias; for example, to show its size. By default not.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    z0 = jnp.array([[0.0], [2.0]])
    z1 = jnp.array([[3.0], [1.0]])
    coupling = fp.OTCoupling()
    print(coupling.pair(z0, z1, None, key=jax.random.key(0))[:, 0])  # [2. 0.]
    network = fp.nn.MLP(shape=(1,), width=8, depth=1, key=jax.random.key(1))
    flow = fp.fm_flow(network, shape=(1,), coupling=coupling)
    ```
    """

    ignore_condition: bool = eqx.field(default=False, static=True)

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        _refuse_condition(self, x, self.ignore_condition)
        return z0[best_rows(squared_distances(z0, z1))]


@checked
class SinkhornCoupling(AbstractCoupling):
    """Entropic optimal transport within the batch: each point draws its noise from the plan, given the point.

    The plan minimises `E |z0 - z1|^2 - epsilon H`, where `H` is its entropy ([Cuturi
    2013](https://arxiv.org/abs/1306.0895)). As `epsilon` tends to 0 it is the plan of exact optimal transport; for a
    large `epsilon` it is the independent one. In between it is the plan of a Brownian bridge of variance `epsilon / 2`
    ([SF]2M, [Tong et al. 2024](https://arxiv.org/abs/2307.03672)). Sinkhorn's iterations find it on the device, with
    logarithms.

    Each data point is always paired with exactly one row of noise. If the iterations stop at `max_iterations` before
    they reach `tolerance`, some rows of noise are drawn too often and others too rarely, without a message. A small
    `epsilon` needs more iterations.

    This coupling is for flows without a condition, and raises an error if there is one: it pairs a point with noise
    near it, so the noise would depend on the condition. [`flowprop.ConditionalOTCoupling`][] avoids this.

    **Arguments:**

    - `epsilon`: in units of `|z|^2`, positive. The number of iterations is about proportional to `1 / epsilon`.
    - `tolerance`: the iterations stop when the error of the weights of the rows of noise, summed over the rows, is at
      most `tolerance`; the weights sum to 1. Positive. By default 0.01.
    - `max_iterations`: the largest number of iterations, positive. By default 1000.
    - `ignore_condition`: accept conditions nevertheless, with the bias. By default not.

    **Raises:** `ValueError` if an argument is not positive.

    ```python
    import flowprop as fp
    import jax

    keys = jax.random.split(jax.random.key(0))
    z0, z1 = (jax.random.normal(key, (16, 2)) for key in keys)
    coupling = fp.SinkhornCoupling(epsilon=0.5)
    print(coupling.pair(z0, z1, None, key=jax.random.key(1)).shape)  # (16, 2)
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
        plan = log_plan(squared_distances(z0, z1), self.epsilon, self.tolerance, self.max_iterations)
        return z0[jax.random.categorical(key, plan, axis=0)]


@checked
class ConditionalOTCoupling(AbstractCoupling):
    """Optimal transport within the batch that keeps the noise independent of the condition.

    (C2OT, [Cheng & Schwing 2025](https://arxiv.org/abs/2503.10636).) Plain optimal transport pairs the data of a
    condition with the nearest noise. The flow given `x` is then trained on `p(z_0 | x)`, but its samples start in
    `p(z_0)`, which includes regions of noise that training never used. Here each row of noise has one of the
    conditions of the batch, chosen at random. A pair of noise and data with different conditions has a higher cost:
    `|z0 - z1|^2` plus what `condition_cost` adds. The noise that is paired with a class of data is then all the noise
    with the condition of that class.

    **Arguments:**

    - `condition_cost`: [`flowprop.ClassCost`][]`()` for classes, the default, or [`flowprop.DistanceCost`][]`()` for
      continuous conditions.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    z0, z1 = (jax.random.normal(key, (6, 2)) for key in keys)
    labels = jnp.array([0, 0, 0, 1, 1, 1])
    coupling = fp.ConditionalOTCoupling()
    print(coupling.pair(z0, z1, labels, key=jax.random.key(1)).shape)  # (6, 2)
    ```
    """

    condition_cost: AbstractConditionCost = ClassCost()

    @checked
    def pair(self, z0: Batch, z1: Float[Array, "..."], x: PyTree, *, key: PRNGKey) -> Batch:
        if not jax.tree.leaves(x):
            raise ValueError(
                "`x` is empty and the coupling compares conditions: use `fp.OTCoupling()`, which needs none"
            )
        for leaf in jax.tree.leaves(x):
            if jnp.shape(leaf)[:1] != z0.shape[:1]:
                raise ValueError(
                    f"`x` has a leaf of shape {jnp.shape(leaf)} where the batch has {len(z0)} examples: "
                    "every leaf of a batch's condition carries the batch axis first"
                )
        # After the shuffle, row i of the noise has the i-th condition by chance, for any order of the noise.
        z0 = jax.random.permutation(key, z0)
        return z0[best_rows(self.condition_cost.add(squared_distances(z0, z1), x))]


def _refuse_condition(coupling: AbstractCoupling, x: PyTree, ignore: bool) -> None:
    if jax.tree.leaves(x) and not ignore:
        name = type(coupling).__name__
        raise ValueError(
            f"`x` is given and `coupling` is {name}, which makes noise depend on the condition and biases samples: "
            "give `fp.ConditionalOTCoupling()`, or accept the bias with `ignore_condition=True`"
        )
