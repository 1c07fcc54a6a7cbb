"""Classifier-free guidance of a trained flow."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._frozen import Frozen
from .._types import Point, Real, Scalar, Time, check_number, check_shape, checked
from .flow import Flow
from .network import Network, call_network


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
    features = null if flow.encoder is None else flow.encode(_plain(null))
    network = _GuidedNetwork(flow.network, frozen_condition(features), scale)
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
        both = jax.tree.map(lambda null, leaf: jnp.stack([null, leaf]), null_for(x, self.null), x)
        without, given = jax.vmap(lambda x: call_network(self.network, t, z, x))(both)
        weight = jnp.asarray(self.scale(t)).astype(given.dtype)
        check_shape("scale(t)", weight, (), "the guidance's scale is one number for each time")
        # In this form 0 and 1 leave one branch as it is.
        return (1 - weight) * without + weight * given


def _plain(null: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.value if _is_frozen(leaf) else leaf, null, is_leaf=_is_frozen)


def _is_frozen(node: PyTree) -> bool:
    return isinstance(node, Frozen)


def frozen_condition(null: PyTree) -> PyTree[Frozen]:
    """`null` as arrays that are not trained."""
    if not jax.tree.leaves(null):
        raise ValueError("`null` holds no array: give the condition of one example that stands for none")
    return jax.tree.map(lambda leaf: leaf if _is_frozen(leaf) else Frozen(jnp.asarray(leaf)), null, is_leaf=_is_frozen)


def null_for(x: PyTree, null: PyTree[Frozen]) -> PyTree[Array]:
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
