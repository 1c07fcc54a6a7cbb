"""Arrays that belong to a model and are not trained."""

import equinox as eqx
import jax
from jaxtyping import Array, PyTree


class Frozen(eqx.Module):
    """A fixed array inside a model: a one-hot matrix, random frequencies, a fixed end point.

    `jax.lax.stop_gradient` alone is not enough, because weight decay changes an array even if its gradient is zero.
    [`flowprop.fit`][] leaves every `Frozen` array out of the gradient, the optimiser's state and the running average.
    In a training loop of your own, use [`flowprop.trainable`][] for this.

    **Arguments:**

    - `array`: any array.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    frozen = fp.Frozen(jnp.arange(3.0))
    print(frozen.value)  # [0. 1. 2.]
    print(jax.grad(lambda frozen: frozen.value.sum())(frozen).array)  # [0. 0. 0.]
    ```
    """

    array: Array

    @property
    def value(self) -> Array:
        """The array, with `jax.lax.stop_gradient` applied."""
        return jax.lax.stop_gradient(self.array)


def unfrozen(leaf: Array | Frozen) -> Array:
    """The array itself, whether it is frozen or not."""
    return leaf.value if isinstance(leaf, Frozen) else leaf


def trainable(model: PyTree) -> PyTree:
    """A PyTree of Booleans: `True` where `model` holds a floating-point array that is trained.

    It is the filter for `equinox.partition(model, fp.trainable(model))`.

    **Arguments:**

    - `model`: any PyTree.

    **Returns:** a PyTree of `model`'s structure; `False` for everything inside a [`flowprop.Frozen`][].

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax.numpy as jnp

    model = {"weight": jnp.ones(2), "constant": fp.Frozen(jnp.ones(3)), "steps": 5}
    parameters, rest = eqx.partition(model, fp.trainable(model))
    print(parameters["weight"], parameters["constant"].array, parameters["steps"])  # [1. 1.] None None
    ```
    """

    def spec(node: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf) and not isinstance(node, Frozen), node)

    return jax.tree.map(spec, model, is_leaf=lambda node: isinstance(node, Frozen))


def stop_gradient(model: PyTree) -> PyTree:
    """`model`, with no gradient in any of its arrays."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, model)
