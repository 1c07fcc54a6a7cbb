"""The posterior of several independent observations, composed of the posteriors of each."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._flow.flow import Flow
from .._flow.noise import check_gaussian
from .._frozen import Frozen
from .._path.prediction import TargetPrediction
from .._solve.sample import sample
from .._types import Point, PRNGKey, Time, check_key, check_number, checked
from .ensemble import members
from .observations import check_observations, encoded, without_encoder
from .posterior import Posterior


@checked
def given_all(posterior: Posterior, x: PyTree, *, key: PRNGKey, num_samples: int = 1_000) -> Flow:
    """The flow of `p(theta | x_1, ..., x_m)` for independent observations, from a flow that was trained on single ones.

    By Bayes' rule the posterior is proportional to `p(theta)^(1 - m) prod_j p(theta | x_j)`. The same holds for the
    distribution of `z_1` given a point `z_t` of the path. If the factors are gaussian, with the targets `u_j` that the
    flow estimates as their means there, the target of the composition is

    `u = L^-1 (sum_j A_j u_j - (m - 1) A_0 u_0)`, with `A = sigma_t^2 P + alpha_t^2` and
    `L = sum_j A_j - (m - 1) A_0`,

    where `P_j` is the inverse covariance of `p(theta | x_j)` and the index 0 means the prior. This composition of
    scores ([Geffner et al. 2023](https://arxiv.org/abs/2209.14249)), with the correction of [Linhart et al.
    2024](https://arxiv.org/abs/2404.07593) (GAUSS), is written for targets, so that it is finite at all times.

    It is exact if prior and posteriors are gaussian in the coordinates of the flow, after its transform. For any other
    it is an approximation: a prior that is not gaussian, such as a box, enters by its mean and covariance. Check it by
    simulations, or weight its samples by a known likelihood.

    **Arguments:**

    - `posterior`: the posterior of one observation; its flow is a single one with gaussian noise.
    - `x`: the observations; each leaf has their axis first.
    - `key`: the random key of the samples from which the covariances are estimated.
    - `num_samples`: how many samples to draw for each covariance. By default 1,000.

    **Returns:** a flow without a condition, for [`flowprop.sample`][] and [`flowprop.log_prob`][]. It does not know the
    support of the prior.

    **Raises:** `ValueError` if the flow is an ensemble, if its noise is not gaussian given the data, or if `x` holds
    NaN, infinity or no array.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    def velocity(t, z, x):  # of N(x, 1/4)
        return x + (t / 4 - (1 - t)) / (t**2 / 4 + (1 - t) ** 2) * (z - t * x)

    flow = fp.fm_flow(velocity, shape=(1,))
    posterior = fp.Posterior(flow, fp.BoxUniform(-5 * jnp.ones(1), 5 * jnp.ones(1)))
    x = jnp.array([[0.1], [0.2], [0.0], [0.1]])
    together = fp.given_all(posterior, x, key=jax.random.key(0))
    samples = fp.sample(together, 1000, key=jax.random.key(1))
    print(0.2 < samples.std() < 0.3)  # True
    ```
    """
    check_key("key", key)
    check_number("num_samples", num_samples, at_least=math.prod(posterior.flow.shape) + 1, remedy="give more samples")
    flow, *others = members(posterior.flow)
    if others:
        raise ValueError("`posterior` has an ensemble of flows: give the posterior of one of its `members`")
    check_gaussian(flow, "a composition of posteriors")
    count = check_observations(x)
    features = encoded(flow, x)
    flow = without_encoder(flow)
    key_prior, key_flow = jax.random.split(key)
    mean, prior_precision = _moments(flow, posterior.prior.sample(key_prior, (20 * num_samples,)))
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_samples, axis=0), features)
    theta = sample(flow, count * num_samples, rows, key=key_flow, integrator=posterior.integrator)
    _, precisions = jax.vmap(lambda points: _moments(flow, points))(theta.reshape(count, num_samples, *flow.shape))
    network = _Composed(
        flow,
        features,
        Frozen(jax.vmap(lambda precision: _at_least(precision, prior_precision))(precisions)),
        Frozen(mean),
        Frozen(prior_precision),
    )
    return Flow(network, flow.path, TargetPrediction(), shape=flow.shape, transform=flow.transform)


class _Composed(eqx.Module):
    """The network: the target of the composed posterior."""

    flow: Flow
    features: PyTree
    precisions: Frozen
    prior_mean: Frozen
    prior_precision: Frozen

    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Point:
        targets = jax.vmap(lambda features: self.flow.estimate(t, z, features).target.ravel())(self.features)
        alpha, sigma = self.flow.path.alpha(t), self.flow.path.sigma(t)
        precisions, mean = self.precisions.value.astype(z.dtype), self.prior_mean.value.astype(z.dtype)
        prior = self.prior_precision.value.astype(z.dtype)
        more = len(targets) - 1
        total = sigma**2 * (precisions.sum(axis=0) - more * prior) + alpha**2 * jnp.eye(z.size, dtype=z.dtype)
        # `A_0 u_0` of a gaussian prior is `sigma^2 P_0 mean + alpha z`.
        of_prior = sigma**2 * (prior @ mean) + alpha * z.ravel()
        each = sigma**2 * jnp.einsum("jab,jb->a", precisions, targets) + alpha**2 * targets.sum(axis=0)
        return jnp.linalg.solve(total, each - more * of_prior).reshape(z.shape)


def _moments(flow: Flow, theta: Float[Array, "n *shape"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Mean and inverse covariance of points, in the coordinates of the flow."""
    z = jax.vmap(flow.transform.forward)(theta).reshape(len(theta), -1)
    covariance = jnp.atleast_2d(jnp.cov(z, rowvar=False))
    return z.mean(axis=0), jnp.linalg.inv(covariance + 1e-6 * jnp.trace(covariance) * jnp.eye(len(covariance)))


def _at_least(precision: Float[Array, "d d"], least: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """A precision of at least that of the prior in each direction: an observation never takes information away.

    So the sum of precisions minus those of the prior stays positive, whatever the errors of the estimates.
    """
    root = jnp.linalg.cholesky(least)
    white = jnp.linalg.solve(root, jnp.linalg.solve(root, precision).T)
    values, vectors = jnp.linalg.eigh((white + white.T) / 2)
    side = root @ vectors
    return (side * jnp.maximum(values, 1)[None]) @ side.T
