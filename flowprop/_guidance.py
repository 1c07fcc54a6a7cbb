"""Classifier-free guidance: training with dropped conditions, and the flow that leans on the condition."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ._flow import Flow, check_condition, check_stateless
from ._frozen import Frozen
from ._network import Network, call_network
from ._types import Data, Point, PRNGKey, Real, Scalar, Time, Weights, check_key, check_number, check_shape, checked


class ConditionDropout(eqx.Module):
    """Trains one network with and without its condition (Ho & Salimans 2022, algorithm 1).

    Each example's condition is replaced by `null`, all leaves together, with probability `rate`. The
    network then knows the flow of `p(z | x)` and, under `null`, that of `p(z)`: what [`flowprop.guide`][]
    needs. `fit` this model; its `flow` is the trained one.

    `null` is never trained. It is an input like any other, whose meaning the network learns: a spare
    class, say, whose row of an embedding table lies in the network, and there alone.

    **Arguments:**

    - `flow`: the flow to train.
    - `null`: a condition of one example that stands for "none", of the structure and shapes of `x`
      without its batch axis. It is cast to the dtypes of `x`.
    - `rate`: the probability of dropping, in [0, 1].

    **Raises:** `ValueError` for a `rate` outside of [0, 1], a `null` without arrays, or a categorical
    prediction, whose condition holds the embeddings.
    """

    flow: Flow
    null: PyTree[Frozen]
    rate: Real

    @checked
    def __init__(self, flow: Flow, null: PyTree, rate: Real = 0.1) -> None:
        check_number("rate", rate, at_least=0, at_most=1, remedy="give a probability in [0, 1]")
        check_stateless(flow, "ConditionDropout")
        if flow.prediction.takes_embeddings:
            raise ValueError(
                "`flow` has a categorical prediction, whose condition `(features, W)` holds the embeddings: "
                "drop the features where they are made, in the encoder"
            )
        self.flow = flow
        self.null = _frozen(null)
        self.rate = rate

    @checked
    def loss(self, z1: Data, x: PyTree, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The flow's loss, with some conditions dropped.

        **Arguments:**

        - `z1`: a batch of data, in their own units.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: for what is dropped, and for the flow's loss.
        - `weights`: of the examples, `(n,)`. By default 1.

        **Returns:** a scalar.

        **Raises:** as of `Flow.loss`, and `ValueError` where `null` does not match `x`.
        """
        check_key("key", key)
        check_condition(x, z1.shape[0])
        key_drop, key_loss = jax.random.split(key)
        dropped = jax.random.bernoulli(key_drop, float(self.rate), (z1.shape[0],))

        def replace(dropped: Bool[Array, ""], x: PyTree) -> PyTree:
            return jax.tree.map(lambda null, leaf: jnp.where(dropped, null, leaf), _null_for(x, self.null), x)

        return self.flow.loss(z1, jax.vmap(replace)(dropped, x), key=key_loss, weights=weights)

    def check_data(self, z1: Data, x: PyTree) -> None:
        """Look at all data before training: see [`flowprop.Flow`][]."""
        self.flow.check_data(z1, x)


@checked
def guide(flow: Flow, null: PyTree, scale: Real | Float[Array, ""] | Callable[[Scalar], Scalar]) -> Flow:
    """The flow whose network returns `(1 - w) F(t, z, null) + w F(t, z, x)` (Ho & Salimans 2022, eq. 6).

    Here `w = scale(t)`: 0 ignores the condition, 1 is the flow as it was, more leans on the condition.
    (Ho and Salimans' own w is one less.) Both branches are one call of the network, for a batch of two.

    At a given `t` and `z`, target, noise, velocity and score are each `A(F) = a z + b F` of the network's
    output, with `a` and `b` the path's and the prediction's. The weights sum to 1, so that
    `(1 - w) A(F_0) + w A(F_1) = A((1 - w) F_0 + w F_1)`: mixing outputs mixes all of these alike.
    The logits of a [`flowprop.CategoricalPrediction`][] are no such output; mixing them makes the target
    that of the classes' probabilities `p(k | z, x)^w p(k | z)^(1 - w)`, normalised.

    The guided score is that of `p_t(z | x)^w p_t(z)^(1 - w)` at every time. But unless `w` is 0 or 1 the
    guided flow does not carry these densities into one another: its samples follow, and `log_prob` is
    exactly, the pushforward of noise by the guided ODE, another density.

    **Arguments:**

    - `flow`: trained with and without conditions, as by [`flowprop.ConditionDropout`][].
    - `null`: the condition of one example that stands for "none", as in training. For a categorical
      prediction that of the features.
    - `scale`: a number, or a function of the time: guidance in an interval is
      `lambda t: jnp.where((t > 0.2) & (t < 0.8), 3.0, 1.0)` (Kynkäänniemi et al. 2024).

    **Returns:** a flow like any other, to be given conditions as before.

    **Raises:** `ValueError` for a `null` without arrays and, when called, one that does not match `x`
    or a `scale` that does not return a number.
    """
    if not callable(scale):
        check_number("scale", scale, remedy="give a finite number, 1 for the flow as it is")
        # An array, so that another scale needs no new compilation.
        scale = _Constant(Frozen(jnp.asarray(scale, float)))
    network = _GuidedNetwork(flow.network, _frozen(null if flow.encoder is None else flow.encode(_plain(null))), scale)
    return eqx.tree_at(lambda flow: flow.network, flow, network)


class _Constant(eqx.Module):
    """A number as a function of time."""

    number: Frozen

    def __call__(self, t: Time) -> Scalar:
        return self.number.value


class _GuidedNetwork(eqx.Module):
    """A network under two conditions at once, its outputs mixed."""

    network: Network
    null: PyTree[Frozen]
    scale: Callable[[Scalar], Scalar]

    def __call__(self, t: Scalar, z: Point, x: PyTree) -> Array:
        both = jax.tree.map(lambda null, leaf: jnp.stack([null, leaf]), _null_for(x, self.null), x)
        without, given = jax.vmap(lambda x: call_network(self.network, t, z, x))(both)
        weight = jnp.asarray(self.scale(t)).astype(given.dtype)
        check_shape("scale(t)", weight, (), "the guidance's scale is one number for each time")
        # In this form 0 and 1 leave one branch as it is.
        return (1 - weight) * without + weight * given


def _plain(null: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.value if _is_frozen(leaf) else leaf, null, is_leaf=_is_frozen)


def _is_frozen(node: PyTree) -> bool:
    return isinstance(node, Frozen)


def _frozen(null: PyTree) -> PyTree[Frozen]:
    """`null` as arrays that are not trained."""
    if not jax.tree.leaves(null):
        raise ValueError("`null` holds no array: give the condition of one example that stands for none")
    return jax.tree.map(lambda leaf: leaf if _is_frozen(leaf) else Frozen(jnp.asarray(leaf)), null, is_leaf=_is_frozen)


def _null_for(x: PyTree, null: PyTree[Frozen]) -> PyTree[Array]:
    """`null` in place of one example's condition `x`: of its structure, shapes and dtypes."""
    values = jax.tree.map(lambda leaf: leaf.value, null, is_leaf=_is_frozen)
    have: object = jax.tree.structure(values)
    wanted: object = jax.tree.structure(x)
    if have != wanted:
        raise ValueError(f"`null` is a {have} where the condition `x` is a {wanted}: give one example's condition")

    def cast(value: Array, leaf: Array) -> Array:
        check_shape("null", value, jnp.shape(leaf), "the shape of one example's condition, without the batch axis")
        return value.astype(jnp.result_type(leaf))

    return jax.tree.map(cast, values, x)
