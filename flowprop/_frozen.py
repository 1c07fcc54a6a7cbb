"""Arrays that belong to a model and are not trained."""

import equinox as eqx
import jax
from jaxtyping import Array, PyTree


class Frozen(eqx.Module):
    """A fixed array inside a model: a one-hot matrix, random frequencies, a fixed end point.

    `jax.lax.stop_gradient` alone does not survive weight decay, which moves an array whose
    gradient is zero. `fp.fit` leaves whatever is wrapped here out of the gradient, the
    optimiser's state and the running average; in a loop of your own, do so by `fp.trainable`.

    **Arguments:**

    - `array`: any array.
    """

    array: Array

    @property
    def value(self) -> Array:
        """The array, through which no gradient flows."""
        return jax.lax.stop_gradient(self.array)


def unfrozen(leaf: Array | Frozen) -> Array:
    """The array itself, whether it is frozen or not."""
    return leaf.value if isinstance(leaf, Frozen) else leaf


def trainable(model: PyTree) -> PyTree:
    """A PyTree of booleans: `True` where `model` holds a floating-point array that is trained.

    Made for `equinox.partition(model, fp.trainable(model))`.

    **Arguments:**

    - `model`: any PyTree.

    **Returns:** a PyTree of `model`'s structure; `False` on everything inside a [`flowprop.Frozen`][].
    """

    def spec(node: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf) and not isinstance(node, Frozen), node)

    return jax.tree.map(spec, model, is_leaf=lambda node: isinstance(node, Frozen))


def stop_gradient(model: PyTree) -> PyTree:
    """`model` with no gradient flowing into any of its arrays."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, model)
