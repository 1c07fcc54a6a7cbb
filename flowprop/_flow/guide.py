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
    """Classifier-free guidance: the network returns `(1 - w) F(t, z, null) + w F(t, z, x)`.

    ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), eq. 6, whose `w` is smaller by one.) Here `w = scale(t)`. 0
    ignores the condition, 1 is the original flow, and a larger `w` increases the influence of the condition. Both
    branches are one call of the network, on a batch of two.

    At a given `t` and `z`, target, noise, velocity and score are each an affine function `A(F) = a z + b F` of the
    network's output, where `a` and `b` depend on the path and the prediction. The weights sum to 1, so
    `(1 - w) A(F_0) + w A(F_1) = A((1 - w) F_0 + w F_1)`: mixing the outputs is the same as mixing any of these. The
    logits of a [`flowprop.CategoricalPrediction`][] are not such an output. Mixing them gives the target of the class
    probabilities `p(k | z, x)^w p(k | z)^(1 - w)`, normalised.

    The guided score is that of `p_t(z | x)^w p_t(z)^(1 - w)` at every time. But unless `w` is 0 or 1, the guided flow
    does not transport these densities into one another. Its samples have another density: the pushforward of the noise
    by the guided ODE. `log_prob` of the guided flow is exactly this density.

    **Arguments:**

    - `flow`: a flow that was trained with and without conditions, for example with [`flowprop.ConditionDropout`][].
    - `null`: the condition of one example that stands for "none", the same as in training. For a categorical
      prediction, that of the features.
    - `scale`: `w`, a number or a function of the time. For guidance in an interval ([Kynkäänniemi et al.
      2024](https://arxiv.org/abs/2404.07724)) use `lambda t: jnp.where((t > 0.2) & (t < 0.8), 3.0, 1.0)`.

    **Returns:** a flow, which takes the same conditions as `flow`.

    **Raises:** `ValueError` if `null` holds no array. When the flow is called, `ValueError` if `null` does not match
    `x`, or if `scale` does not return a number.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    flow = fp.fm_flow(lambda t, z, x: x - z, shape=(2,))
    guided = fp.guide(flow, jnp.zeros(2), 3.0)
    z, x = jnp.zeros(2), jnp.array([1.0, -1.0])
    print(flow.velocity(0.5, z, x))  # [ 1. -1.]
    print(guided.velocity(0.5, z, x))  # [ 3. -3.]
    ```
    """
    if not callable(scale):
        check_number("scale", scale, remedy="give a finite number, 1 for the original flow")
        # An array, so that a different scale needs no new compilation.
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
    """A network that is called with two conditions at once and mixes the two outputs."""

    network: Network
    null: PyTree[Frozen]
    scale: Callable[[Scalar], Scalar]

    def __call__(self, t: Scalar, z: Point, x: PyTree) -> Array:
        both = jax.tree.map(lambda null, leaf: jnp.stack([null, leaf]), null_for(x, self.null), x)
        without, given = jax.vmap(lambda x: call_network(self.network, t, z, x))(both)
        weight = jnp.asarray(self.scale(t)).astype(given.dtype)
        check_shape("scale(t)", weight, (), "the scale of the guidance is one number for each time")
        # In this form, the weights 0 and 1 return one of the branches exactly.
        return (1 - weight) * without + weight * given


def _plain(null: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.value if _is_frozen(leaf) else leaf, null, is_leaf=_is_frozen)


def _is_frozen(node: PyTree) -> bool:
    return isinstance(node, Frozen)


def frozen_condition(null: PyTree) -> PyTree[Frozen]:
    """`null` as arrays that are not trained."""
    if not jax.tree.leaves(null):
        raise ValueError('`null` holds no array: give the condition of one example that stands for "none"')
    return jax.tree.map(lambda leaf: leaf if _is_frozen(leaf) else Frozen(jnp.asarray(leaf)), null, is_leaf=_is_frozen)


def null_for(x: PyTree, null: PyTree[Frozen]) -> PyTree[Array]:
    """`null` as a replacement of one example's condition `x`, with its structure, shapes and dtypes."""
    values = jax.tree.map(lambda leaf: leaf.value, null, is_leaf=_is_frozen)
    have: object = jax.tree.structure(values)
    wanted: object = jax.tree.structure(x)
    if have != wanted:
        raise ValueError(f"`null` is a {have} where the condition `x` is a {wanted}: give one example's condition")

    def cast(value: Array, leaf: Array) -> Array:
        check_shape("null", value, jnp.shape(leaf), "the shape of one example's condition, without the batch axis")
        return value.astype(jnp.result_type(leaf))

    return jax.tree.map(cast, values, x)
