"""Labels that are known exactly: inputs that carry the probabilities of their classes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._path.path import derivative
from .._types import Point, PRNGKey, Time, checked
from ._exact import GaussianPath


class ClassPosterior(eqx.Module):
    """The network of a flow of labels that needs no training: Bayes' rule on the path.

    Labels are one-hot, and the condition `x` of the network is `log p(k | x)`, the input itself:
    `log p(k | z_t, x) = log p(k | x) - |z_t - alpha e_k|^2 / (2 sigma^2)`, but for a constant.

    **Arguments:**

    - `path`: such as [`flowprop.CondOTPath`][], or any object with methods `alpha(t)` and `sigma(t)`.
    """

    path: GaussianPath

    @checked
    def __call__(self, t: Time, z: Float[Array, " k"], x: Float[Array, " k"]) -> Float[Array, " k"]:
        """The logits of the classes, but for a constant."""
        points = self.path.alpha(t) * jnp.eye(x.size)
        return x - jnp.sum(jnp.square(z[None] - points), axis=1) / (2 * jnp.square(self.path.sigma(t)))

    def target(self, t: Time, z: Point, x: Point) -> Point:
        """`E[z_1 | z_t = z, x]`: the probabilities of the classes."""
        return jax.nn.softmax(self(t, z, x))

    def velocity(self, t: Time, z: Point, x: Point) -> Point:
        """The velocity of the probability-flow ODE, where `sigma(t) > 0`."""
        alpha, sigma, target = self.path.alpha(t), self.path.sigma(t), self.target(t, z, x)
        slope = derivative(self.path.sigma, t) / sigma
        return slope * z + (derivative(self.path.alpha, t) - alpha * slope) * target


@eqx.filter_jit
@checked
def labelled_inputs(
    num_inputs: int, num_classes: int = 3, *, key: PRNGKey
) -> tuple[Float[Array, "{num_inputs} {num_classes}"], Int[Array, "{num_inputs}"]]:
    """Inputs, and labels that can be read off them without doubt.

    **Arguments:**

    - `num_inputs`: how many.
    - `num_classes`: of how many classes, each as likely.
    - `key`: a typed key.

    **Returns:** inputs `log p(k | x)`, `(n, k)`, and labels `(n,)`.
    """
    key_label, key_logits = jax.random.split(key)
    labels = jax.random.randint(key_label, (num_inputs,), 0, num_classes)
    logits = 12.0 * jax.nn.one_hot(labels, num_classes) + jax.random.normal(key_logits, (num_inputs, num_classes))
    return jax.nn.log_softmax(logits), labels
