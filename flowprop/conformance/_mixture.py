"""Gaussian mixtures whose distribution is known at every time of a gaussian path."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Point, PRNGKey, Real, Scalar, checked
from ..data import GaussianMixture


Matrix = Array | np.ndarray | Sequence[Any]


class Mixture(eqx.Module):
    """A gaussian mixture whose expectations, score and velocity are known on a path `z_t = alpha z_1 + sigma z_0`.

    At time t component k is gaussian with mean `alpha m_k` and covariance `C_k = alpha^2 S_k + sigma^2 I`. Let
    `r_k = C_k^-1 (z - alpha m_k)`, and let `<.>` be the mean over the components with weights `p(k | z)`. Then
    `E[z_1 | z] = <m_k + alpha S_k r_k>`, `E[z_0 | z] = sigma <r_k>` and `grad log p_t(z) = -<r_k>`
    (compare [Albergo et al. 2023](https://arxiv.org/abs/2303.08797)).

    [`flowprop.data.GaussianMixture`][] is the same distribution as a data set: it draws labelled points. This class
    adds the path. Its parameters are arrays and not static values, so that all mixtures of one size share one compiled
    program.

    **Arguments:**

    - `weights`: the probabilities of the components, `(k,)`, positive, with sum 1.
    - `means`: the means `m_k`, `(k, d)`.
    - `covariances`: the covariances `S_k`, `(k, d, d)`, symmetric and positive definite.

    **Raises:** `ValueError` if a shape is wrong, a weight is not positive, the sum of the weights is not 1, or a
    covariance is not symmetric and positive definite.

    ```python
    import flowprop as fp
    import jax
    import numpy as np

    covariances = np.stack([np.eye(2), 0.1 * np.eye(2)])
    data = fp.conformance.Mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], covariances)
    print(data.sample(5, key=jax.random.key(0)).shape)  # (5, 2)
    print(data.mean.round(3))  # [0. 0.]
    ```
    """

    #: The probabilities of the components, `(k,)`.
    weights: np.ndarray
    #: The means of the components, `(k, d)`.
    means: np.ndarray
    #: The covariance of component k is `V_k diag(l_k) V_k^T`.
    variances: np.ndarray
    axes: np.ndarray

    @checked
    def __init__(self, weights: Matrix, means: Matrix, covariances: Matrix) -> None:
        # Constructing it checks shapes, weights and covariances.
        known = GaussianMixture(means, covariances, weights)
        self.weights, self.means = np.array(weights, float), known.means
        if not np.isclose(self.weights.sum(), 1):
            raise ValueError(f"`weights` are {self.weights.tolist()}: divide them by their sum, so that the sum is 1")
        self.variances, self.axes = np.linalg.eigh(known.covariances)

    @property
    def covariances(self) -> Float[np.ndarray, "k d d"]:
        """The covariance of each component, `(k, d, d)`."""
        return np.einsum("kij,kj,klj->kil", self.axes, self.variances, self.axes)

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mean of the mixture, `(d,)`."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The covariance of the mixture, `(d, d)`."""
        centred = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None, :])

    @eqx.filter_jit
    def sample(self, num_samples: int, *, key: PRNGKey) -> Float[Array, "{num_samples} d"]:
        """Draw independent points.

        **Arguments:**

        - `num_samples`: how many points to draw.
        - `key`: a typed key.

        **Returns:** points `(num_samples, d)`.
        """
        key_component, key_normal = jax.random.split(key)
        k = jax.random.categorical(key_component, jnp.log(self.weights), shape=(num_samples,))
        normal = jax.random.normal(key_normal, (num_samples, self.means.shape[1]))
        _, means, variances, axes = self._arrays(normal)
        return means[k] + jnp.einsum("nij,nj,nj->ni", axes[k], jnp.sqrt(variances)[k], normal)

    @checked
    def log_prob(self, z: Point, alpha: Real | Scalar = 1.0, sigma: Real | Scalar = 0.0) -> Scalar:
        """The log-density `log p_t(z)` of one point, in nats. By default it is the log-density of the data.

        **Arguments:**

        - `z`: one point `(d,)` in path coordinates.
        - `alpha`: the factor of the data at the time of the point. By default 1.
        - `sigma`: the factor of the noise at the time of the point. By default 0.

        **Returns:** a scalar.
        """
        return jax.nn.logsumexp(self._components(alpha, sigma, z)[0]) - z.size / 2 * jnp.log(2 * jnp.pi)

    @checked
    def expectations(self, alpha: Real | Scalar, sigma: Real | Scalar, z: Point) -> tuple[Point, Point]:
        """The expected data `E[z_1 | z_t = z]` and the expected noise `E[z_0 | z_t = z]`.

        **Arguments:**

        - `alpha`: the factor of the data at the time of the point.
        - `sigma`: the factor of the noise at the time of the point.
        - `z`: one point `(d,)` in path coordinates.

        **Returns:** two arrays `(d,)`.
        """
        _, means, variances, axes = self._arrays(z)
        log_joint, residuals = self._components(alpha, sigma, z)
        posterior = jax.nn.softmax(log_joint)
        targets = means + alpha * jnp.einsum("kij,kj->ki", axes, variances * residuals)
        return posterior @ targets, sigma * jnp.einsum("k,kij,kj->i", posterior, axes, residuals)

    @checked
    def score(self, alpha: Real | Scalar, sigma: Real | Scalar, z: Point) -> Point:
        """The score `grad_z log p_t(z)`. It is finite also if `sigma` is 0.

        **Arguments:**

        - `alpha`: the factor of the data at the time of the point.
        - `sigma`: the factor of the noise at the time of the point.
        - `z`: one point `(d,)` in path coordinates.

        **Returns:** an array `(d,)`.
        """
        log_joint, residuals = self._components(alpha, sigma, z)
        return -jnp.einsum("k,kij,kj->i", jax.nn.softmax(log_joint), self._arrays(z)[-1], residuals)

    def velocity(self, coefficients: Sequence[Any] | Array, z: Point) -> Point:
        """The velocity `alpha' E[z_1 | z_t = z] + sigma' E[z_0 | z_t = z]` of the probability-flow ODE.

        **Arguments:**

        - `coefficients`: the four numbers `(alpha, sigma, alpha', sigma')` at the time of the point.
        - `z`: one point `(d,)` in path coordinates.

        **Returns:** an array `(d,)`.
        """
        alpha, sigma, alpha_slope, sigma_slope = coefficients
        target, noise = self.expectations(alpha, sigma, z)
        return alpha_slope * target + sigma_slope * noise

    def _arrays(self, like: Array) -> tuple[Array, ...]:
        return tuple(jnp.asarray(array, like.dtype) for array in (self.weights, self.means, self.variances, self.axes))

    def _components(self, alpha: Real | Scalar, sigma: Real | Scalar, z: Point) -> tuple[Array, Array]:
        """`log w_k N(z; alpha m_k, C_k)` up to a constant, and `r_k` along the axes of each component."""
        weights, means, variances, axes = self._arrays(z)
        marginal = alpha**2 * variances + sigma**2
        differences = jnp.einsum("kij,ki->kj", axes, z[None] - alpha * means)
        residuals = differences / marginal
        return jnp.log(weights) - 0.5 * jnp.sum(differences * residuals + jnp.log(marginal), axis=-1), residuals


@checked
def gaussian(mean: Matrix, covariance: Matrix) -> Mixture:
    """Make the gaussian `N(mean, covariance)`, a mixture with one component.

    **Arguments:**

    - `mean`: the mean, `(d,)`.
    - `covariance`: the covariance, `(d, d)`, symmetric and positive definite.

    **Returns:** the [`flowprop.conformance.Mixture`][].

    **Raises:** `ValueError` if a shape is wrong or the covariance is not symmetric and positive definite.

    ```python
    import flowprop as fp

    data = fp.conformance.gaussian([1.0, 2.0], [[0.5, 0.0], [0.0, 0.5]])
    print(data.mean)  # [1. 2.]
    ```
    """
    return Mixture([1.0], [mean], [covariance])


#: A gaussian with a mean that is not 0 and a covariance that is not diagonal: both are needed to detect errors. It is
#: written as a mixture of two equal components, so that it shares its compiled programs with `MIXTURE`.
GAUSSIAN = Mixture([0.5, 0.5], [[0.7, -0.4]] * 2, [[[0.6, 0.35], [0.35, 0.4]]] * 2)
#: A mixture of two overlapping components whose axes have different directions.
MIXTURE = Mixture([0.3, 0.7], [[-1.0, 0.5], [0.8, -0.3]], [[[0.2, 0.08], [0.08, 0.1]], [[0.15, -0.05], [-0.05, 0.3]]])
