"""Log-likelihoods of data under each class, and Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._divergence import AbstractDivergence
from .._flow.flow import Flow
from .._solve import AbstractIntegrator
from .._types import Points, PRNGKey, check_shape, checked
from .log_prob import log_prob


@checked
def class_log_prob(
    flow: Flow,
    z1: Points,
    conditions: PyTree,
    *,
    key: PRNGKey | None = None,
    divergence: AbstractDivergence | None = None,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch classes"]:
    """Compute `log p(z_1 | x_k)` of every example under the condition `x_k` of every class.

    Each entry is a log-likelihood as in [`flowprop.log_prob`][]
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8). With a stochastic divergence all classes of an
    example use the same probes. The class depends only on differences of log-likelihoods, in which part of the error of
    the probes cancels.

    **Arguments:**

    - `flow`: a flow that takes a condition.
    - `z1`: a batch of data in their own units, `(n, *shape)`.
    - `conditions`: the conditions (context), one for each class; each leaf has the axis of classes first. Use
      `jnp.arange(classes)` for class indices, and `jnp.eye(classes)` for one-hot vectors.
    - `key`: the random key for a stochastic divergence, and for a transform that draws noise. By default none.
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: an integrator that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer
      large ones, so that their states, with the products of the divergence, hold at most 2^24 numbers.

    **Returns:** log-densities in nats, `(n, classes)`. Each entry costs one solve.

    **Raises:** `TypeError` for an integrator without a likelihood, such as an SDE; `ValueError` if `z1` has the wrong
    shape, if a key is needed and missing, or if the leaves of `conditions` do not share an axis of classes;
    `RuntimeError` if a solve fails.

    ```python
    import diffrax as dfx
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: x, shape=(2,))  # N(x, I)
    means = jnp.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    log_probs = fp.class_log_prob(flow, jnp.zeros((4, 2)), means, integrator=heun)
    print(log_probs.shape)  # (4, 3)
    print(f"{log_probs[0, 1] - log_probs[0, 0]:.3f}")  # 0.500
    ```
    """
    conditions = jax.tree.map(jnp.asarray, conditions)
    shapes = [leaf.shape for leaf in jax.tree.leaves(conditions)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0] in [(), (0,)]:
        raise ValueError(f"`conditions` has leaves of shapes {shapes}: give each the axis of classes first")
    num_examples, num_classes = z1.shape[0], shapes[0][0]

    def given(index: int) -> Float[Array, " batch"]:
        x = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[index], (num_examples, *leaf.shape[1:])), conditions)
        # The keys of the probes depend only on the index of an example, so that all classes use the same probes.
        return log_prob(flow, z1, x, key=key, divergence=divergence, integrator=integrator, batch_size=batch_size)

    return jnp.stack([given(index) for index in range(num_classes)], axis=1)


@checked
def class_log_posterior(
    log_probs: Float[Array | np.ndarray, "batch classes"],
    log_prior: Float[Array | np.ndarray, " priors"] | None = None,
) -> Float[Array, "batch classes"]:
    """Apply Bayes' rule: `log p(k | z) = log p(z | k) + log p(k) - log sum_j p(z | j) p(j)`.

    The most probable classes are `class_log_posterior(log_probs).argmax(axis=1)`.

    **Arguments:**

    - `log_probs`: `log p(z | k)` in nats, `(n, classes)`, for example from [`flowprop.class_log_prob`][].
    - `log_prior`: `log p(k)` in nats up to a constant, `(classes,)`. By default all classes have the same probability.

    **Returns:** log-probabilities in nats, `(n, classes)`.

    **Raises:** `ValueError` if `log_prior` does not have one entry for each class.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    log_probs = jnp.log(jnp.array([[0.2, 0.6]]))
    posterior = jnp.exp(fp.class_log_posterior(log_probs))[0]
    print(f"{posterior[0]:.2f}, {posterior[1]:.2f}")  # 0.25, 0.75
    log_prior = jnp.log(jnp.array([3.0, 1.0]))
    posterior = jnp.exp(fp.class_log_posterior(log_probs, log_prior))[0]
    print(f"{posterior[0]:.2f}, {posterior[1]:.2f}")  # 0.50, 0.50
    ```
    """
    log_probs = jnp.asarray(log_probs)
    if log_prior is not None:
        check_shape("log_prior", log_prior, log_probs.shape[1:], "one number for each class")
        log_probs = log_probs + jnp.asarray(log_prior)[None]
    return jax.nn.log_softmax(log_probs, axis=1)
