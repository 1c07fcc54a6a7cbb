"""Data whose every quantity is known: gaussian mixtures."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Point, PRNGKey, Real, Scalar, check_shape, checked


Matrix = Array | np.ndarray | Sequence[Any]


class Mixture(eqx.Module):
    """A gaussian mixture, known at every time of a path `z_t = alpha z_1 + sigma z_0`.

    There component k is gaussian with mean `alpha m_k` and covariance `C_k = alpha^2 S_k + sigma^2 I`. With
    `r_k = C_k^-1 (z - alpha m_k)`, and means over the components weighed by `p(k | z)`:

    `E[z_1 | z] = <m_k + alpha S_k r_k>`, `E[z_0 | z] = sigma <r_k>`, `grad log p_t(z) = -<r_k>`.

    **Arguments:**

    - `weights`: `(k,)`, positive, of sum 1.
    - `means`: `(k, d)`.
    - `covariances`: `(k, d, d)`, symmetric and positive definite.

    **Raises:** `ValueError` for a wrong shape, or weights or a covariance that are none.
    """

    weights: np.ndarray
    means: np.ndarray
    #: The covariance of component k is `V_k diag(l_k) V_k^T`.
    variances: np.ndarray
    axes: np.ndarray

    @checked
    def __init__(self, weights: Matrix, means: Matrix, covariances: Matrix) -> None:
        self.weights, self.means = np.array(weights, float), np.array(means, float)
        check_shape("means", self.means, (None, None), "one row for each component")
        k, d = self.means.shape
        check_shape("weights", self.weights, (k,), "one number for each row of `means`")
        matrices = np.array(covariances, float)
        check_shape("covariances", matrices, (k, d, d), "one matrix for each row of `means`")
        self.variances, self.axes = np.linalg.eigh(matrices)
        if not (np.all(self.weights > 0) and np.isclose(self.weights.sum(), 1)):
            raise ValueError(f"`weights` are {self.weights.tolist()}: give positive numbers of sum 1")
        if not (np.all(self.variances > 0) and np.allclose(matrices, matrices.mT)):
            raise ValueError(f"`covariances` are {matrices.tolist()}: give symmetric, positive definite matrices")

    @property
    def covariances(self) -> Float[np.ndarray, "k d d"]:
        """The covariance of each component."""
        return np.einsum("kij,kj,klj->kil", self.axes, self.variances, self.axes)

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mean of the whole."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The covariance of the whole."""
        centred = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None, :])

    @eqx.filter_jit
    def sample(self, num_samples: int, *, key: PRNGKey) -> Float[Array, "{num_samples} d"]:
        """Independent draws."""
        key_component, key_normal = jax.random.split(key)
        k = jax.random.categorical(key_component, jnp.log(self.weights), shape=(num_samples,))
        normal = jax.random.normal(key_normal, (num_samples, self.means.shape[1]))
        _, means, variances, axes = self._arrays(normal)
        return means[k] + jnp.einsum("nij,nj,nj->ni", axes[k], jnp.sqrt(variances)[k], normal)

    @checked
    def log_prob(self, z: Point, alpha: Real | Scalar = 1.0, sigma: Real | Scalar = 0.0) -> Scalar:
        """`log p_t(z)` of one point, by default that of the data."""
        return jax.nn.logsumexp(self._components(alpha, sigma, z)[0]) - z.size / 2 * jnp.log(2 * jnp.pi)

    @checked
    def expectations(self, alpha: Real | Scalar, sigma: Real | Scalar, z: Point) -> tuple[Point, Point]:
        """`E[z_1 | z_t = z]` and `E[z_0 | z_t = z]`."""
        _, means, variances, axes = self._arrays(z)
        log_joint, residuals = self._components(alpha, sigma, z)
        posterior = jax.nn.softmax(log_joint)
        targets = means + alpha * jnp.einsum("kij,kj->ki", axes, variances * residuals)
        return posterior @ targets, sigma * jnp.einsum("k,kij,kj->i", posterior, axes, residuals)

    @checked
    def score(self, alpha: Real | Scalar, sigma: Real | Scalar, z: Point) -> Point:
        """`grad log p_t(z)`, which needs no noise on the path."""
        log_joint, residuals = self._components(alpha, sigma, z)
        return -jnp.einsum("k,kij,kj->i", jax.nn.softmax(log_joint), self._arrays(z)[-1], residuals)

    def velocity(self, coefficients: Sequence[Any] | Array, z: Point) -> Point:
        """`alpha' E[z_1 | z_t = z] + sigma' E[z_0 | z_t = z]`, from `(alpha, sigma, alpha', sigma')`."""
        alpha, sigma, alpha_slope, sigma_slope = coefficients
        target, noise = self.expectations(alpha, sigma, z)
        return alpha_slope * target + sigma_slope * noise

    def _arrays(self, like: Array) -> tuple[Array, ...]:
        return tuple(jnp.asarray(array, like.dtype) for array in (self.weights, self.means, self.variances, self.axes))

    def _components(self, alpha: Real | Scalar, sigma: Real | Scalar, z: Point) -> tuple[Array, Array]:
        """`log w_k N(z; alpha m_k, C_k)` but for a constant, and `r_k`, along the axes of each component."""
        weights, means, variances, axes = self._arrays(z)
        marginal = alpha**2 * variances + sigma**2
        differences = jnp.einsum("kij,ki->kj", axes, z[None] - alpha * means)
        residuals = differences / marginal
        return jnp.log(weights) - 0.5 * jnp.sum(differences * residuals + jnp.log(marginal), axis=-1), residuals


@checked
def gaussian(mean: Matrix, covariance: Matrix) -> Mixture:
    """The gaussian `N(mean, covariance)`, a mixture of one."""
    return Mixture([1.0], [mean], [covariance])


#: A mean that is not 0 and a covariance that is not diagonal: both are needed to catch an error. Written as a mixture
#: of itself, it shares the compiled programs of the other.
GAUSSIAN = Mixture([0.5, 0.5], [[0.7, -0.4]] * 2, [[[0.6, 0.35], [0.35, 0.4]]] * 2)
#: Two modes that overlap, turned against one another.
MIXTURE = Mixture([0.3, 0.7], [[-1.0, 0.5], [0.8, -0.3]], [[[0.2, 0.08], [0.08, 0.1]], [[0.15, -0.05], [-0.05, 0.3]]])
