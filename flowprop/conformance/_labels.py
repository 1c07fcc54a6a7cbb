"""An exact network for classification, and labelled inputs that contain the log-probabilities of their classes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._path.span import derivative
from .._types import Point, PRNGKey, Time, checked
from ._exact import GaussianPath


class ClassPosterior(eqx.Module):
    """An exact network for a flow of class labels, so that it needs no training.

    The labels are one-hot vectors `e_k`. The condition `x` of the network (the context) is the vector of the
    log-probabilities `log p(k | x)`, which is also the input to the classifier. Calling the network returns the logits
    of the classes, by Bayes' rule on the path `z_t = alpha z_1 + sigma z_0`:

    `log p(k | z_t, x) = log p(k | x) - |z_t - alpha e_k|^2 / (2 sigma^2)`, up to a constant

    (the exact value of the network output of [NoProp](https://arxiv.org/abs/2503.24322), section 2.3.2).

    **Arguments:**

    - `path`: the path, such as [`flowprop.CondOTPath`][], or any object with methods `alpha(t)` and `sigma(t)`.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    network = fp.conformance.ClassPosterior(fp.CondOTPath())
    inputs, labels = fp.conformance.labelled_inputs(5, key=jax.random.key(0))
    logits = jax.vmap(network, (None, None, 0))(0.5, jnp.zeros(3), inputs)
    print(bool(jnp.all(logits.argmax(axis=1) == labels)))  # True
    ```
    """

    path: GaussianPath

    @checked
    def __call__(self, t: Time, z: Float[Array, " k"], x: Float[Array, " k"]) -> Float[Array, " k"]:
        """The logits of the classes, up to a constant.

        **Arguments:**

        - `t`: the time. `sigma(t)` must be positive.
        - `z`: one point `(k,)` on the path.
        - `x`: the condition, `log p(k | x)` of each class, `(k,)`.

        **Returns:** logits `(k,)`.
        """
        points = self.path.alpha(t) * jnp.eye(x.size)
        return x - jnp.sum(jnp.square(z[None] - points), axis=1) / (2 * jnp.square(self.path.sigma(t)))

    def target(self, t: Time, z: Point, x: Point) -> Point:
        """The target `E[z_1 | z_t = z, x]`, which is the vector of the class probabilities.

        **Arguments:**

        - `t`: the time. `sigma(t)` must be positive.
        - `z`: one point `(k,)` on the path.
        - `x`: the condition, `log p(k | x)` of each class, `(k,)`.

        **Returns:** probabilities `(k,)`.
        """
        return jax.nn.softmax(self(t, z, x))

    def velocity(self, t: Time, z: Point, x: Point) -> Point:
        """The velocity of the probability-flow ODE.

        **Arguments:**

        - `t`: the time. `sigma(t)` must be positive.
        - `z`: one point `(k,)` on the path.
        - `x`: the condition, `log p(k | x)` of each class, `(k,)`.

        **Returns:** the velocity `(k,)`.
        """
        alpha, sigma, target = self.path.alpha(t), self.path.sigma(t), self.target(t, z, x)
        slope = derivative(self.path.sigma, t) / sigma
        return slope * z + (derivative(self.path.alpha, t) - alpha * slope) * target


@eqx.filter_jit
@checked
def labelled_inputs(
    num_inputs: int, num_classes: int = 3, *, key: PRNGKey
) -> tuple[Float[Array, "{num_inputs} {num_classes}"], Int[Array, "{num_inputs}"]]:
    """Draw labels, and inputs from which each label can be determined with almost no error.

    An input is the vector of the log-probabilities of its classes, `log p(k | x)`. Its largest entry is at the label.

    **Arguments:**

    - `num_inputs`: the number `n` of inputs.
    - `num_classes`: the number `k` of classes. All have the same probability. By default 3.
    - `key`: a typed key.

    **Returns:** inputs `(n, k)` and integer labels `(n,)`.

    ```python
    import flowprop as fp
    import jax

    inputs, labels = fp.conformance.labelled_inputs(5, key=jax.random.key(0))
    print(inputs.shape, labels.shape)  # (5, 3) (5,)
    ```
    """
    key_label, key_logits = jax.random.split(key)
    labels = jax.random.randint(key_label, (num_inputs,), 0, num_classes)
    logits = 12.0 * jax.nn.one_hot(labels, num_classes) + jax.random.normal(key_logits, (num_inputs, num_classes))
    return jax.nn.log_softmax(logits), labels
