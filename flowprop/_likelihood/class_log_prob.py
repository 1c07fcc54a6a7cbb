"""The likelihood of data under every class, and Bayes' rule."""

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
    """`log p(z_1 | x_k)` of every example under every one of some conditions.

    A stochastic divergence has the same probes for all classes of an example, so that the noise of
    differences, which is what a class depends on, cancels in part.

    **Arguments:** as of [`flowprop.log_prob`][], and

    - `conditions`: one for each class; each leaf carries the axis of classes first. For class
      indices `jnp.arange(classes)`, for one-hot vectors `jnp.eye(classes)`.

    **Returns:** log-densities in nats, `(n, classes)`. They cost as many solves as it has entries.

    **Raises:** as `log_prob`, and `ValueError` if the leaves of `conditions` do not share an axis of classes.
    """
    conditions = jax.tree.map(jnp.asarray, conditions)
    shapes = [leaf.shape for leaf in jax.tree.leaves(conditions)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0] in [(), (0,)]:
        raise ValueError(f"`conditions` has leaves of shapes {shapes}: give each the axis of classes first")
    num_examples, num_classes = z1.shape[0], shapes[0][0]

    def given(index: int) -> Float[Array, " batch"]:
        x = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[index], (num_examples, *leaf.shape[1:])), conditions)
        # The keys of probes follow from the places of examples alone.
        return log_prob(flow, z1, x, key=key, divergence=divergence, integrator=integrator, batch_size=batch_size)

    return jnp.stack([given(index) for index in range(num_classes)], axis=1)


@checked
def class_log_posterior(
    log_probs: Float[Array | np.ndarray, "batch classes"],
    log_prior: Float[Array | np.ndarray, " priors"] | None = None,
) -> Float[Array, "batch classes"]:
    """Bayes' rule: `log p(k | z) = log p(z | k) + log p(k) - log sum_j p(z | j) p(j)`.

    The most probable classes are `class_log_posterior(log_probs).argmax(axis=1)`.

    **Arguments:**

    - `log_probs`: as of [`flowprop.class_log_prob`][], `(n, classes)`.
    - `log_prior`: `log p(k)`, up to a constant, `(classes,)`. By default all classes are as likely.

    **Returns:** log-probabilities in nats, `(n, classes)`.

    **Raises:** `ValueError` if there are not as many priors as classes.
    """
    log_probs = jnp.asarray(log_probs)
    if log_prior is not None:
        check_shape("log_prior", log_prior, log_probs.shape[1:], "one number for each class")
        log_probs = log_probs + jnp.asarray(log_prior)[None]
    return jax.nn.log_softmax(log_probs, axis=1)
