"""Mixtures of gaussians of any dimension."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from .._types import PRNGKey, check_shape, checked
from ._density import AbstractDensity


ArrayOrList = Array | np.ndarray | Sequence[Any]


class GaussianMixture(AbstractDensity):
    """A mixture of gaussians in any dimension, `p(z) = sum_k w_k N(z; m_k, C_k)`. The components are the classes.

    Its moments are known: `mean = sum_k w_k m_k` and `covariance = sum_k w_k (C_k + m_k m_k^T) - mean mean^T`. The
    parameters are stored as float64 numbers, and are rounded to the dtype of the points when they are used. They cannot
    be traced by JAX. See also [`flowprop.data.GaussianMixture.isotropic`][].

    ```python
    import jax
    import flowprop as fp

    means = [[-2.0, 0.0], [2.0, 0.0]]
    covariances = [[[1.0, 0.5], [0.5, 1.0]], [[0.2, 0.0], [0.0, 0.2]]]
    density = fp.data.GaussianMixture(means, covariances, weights=[1, 3])
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.priors, density.mean)  # (0.25, 0.75) [1. 0.]
    ```
    """

    _means: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    _covariances: tuple[tuple[tuple[float, ...], ...], ...] = eqx.field(static=True)
    _weights: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, means: ArrayOrList, covariances: ArrayOrList, weights: ArrayOrList | None = None):
        """**Arguments:**

        - `means`: the means of the components, of shape `(k, d)`.
        - `covariances`: their covariances, of shape `(k, d, d)`, symmetric and positive definite.
        - `weights`: their probabilities, positive numbers of shape `(k,)`, which are divided by their sum. By default
          all are equal.

        **Raises:** `ValueError` if a shape is wrong, a mean is not finite, a weight is not positive, or a covariance is
        not symmetric and positive definite.
        """
        mean, covariance = np.asarray(means, np.float64), np.asarray(covariances, np.float64)
        check_shape("means", mean, (None, None), "one row for each component")
        if not np.all(np.isfinite(mean)):
            raise ValueError("`means` holds values that are not finite: give each component a point")
        k, d = mean.shape
        check_shape("covariances", covariance, (k, d, d), "one matrix for each row of `means`")
        weight = np.ones(k) if weights is None else np.asarray(weights, np.float64)
        check_shape("weights", weight, (k,), "one number for each row of `means`")
        if not (np.all(weight > 0) and np.all(np.isfinite(weight))):
            raise ValueError(f"`weights` are {weight.tolist()} where positive numbers are needed")
        if not (np.allclose(covariance, covariance.mT) and np.all(np.linalg.eigvalsh(covariance) > 0)):
            raise ValueError("`covariances` has a matrix that is not symmetric and positive definite")
        self._means = tuple(map(tuple, mean.tolist()))
        self._covariances = tuple(tuple(map(tuple, matrix)) for matrix in covariance.tolist())
        self._weights = tuple((weight / weight.sum()).tolist())

    @classmethod
    def isotropic(
        cls, means: ArrayOrList, stds: ArrayOrList | float, weights: ArrayOrList | None = None
    ) -> "GaussianMixture":
        """A mixture of isotropic gaussians, with covariances `stds^2 I`.

        ```python
        import flowprop as fp

        density = fp.data.GaussianMixture.isotropic([[-2.0, 0.0], [2.0, 0.0]], 0.5)
        print(density.covariance.tolist())  # [[4.25, 0.0], [0.0, 0.25]]
        ```

        **Arguments:**

        - `means`: the means of the components, of shape `(k, d)`.
        - `stds`: their standard deviations, of shape `(k,)`, or one number for all.
        - `weights`: their probabilities, positive numbers of shape `(k,)`, which are divided by their sum. By default
          all are equal.

        **Returns:** a [`flowprop.data.GaussianMixture`][].

        **Raises:** `ValueError` if a shape is wrong, a mean is not finite, a weight is not positive, or a standard
        deviation is 0 or not finite.
        """
        mean, std = np.asarray(means, np.float64), np.asarray(stds, np.float64)
        check_shape("means", mean, (None, None), "one row for each component")
        k, d = mean.shape
        std = np.broadcast_to(std, (k,)) if std.ndim == 0 else std
        check_shape("stds", std, (k,), "one number for each row of `means`, or one for all")
        return cls(mean, std[:, None, None] ** 2 * np.eye(d)[None], weights)

    @property
    def dim(self) -> int:
        return len(self._means[0])

    @property
    def priors(self) -> tuple[float, ...]:
        return self._weights

    @property
    def means(self) -> Float[np.ndarray, "k d"]:
        """The means of the components, of shape `(k, d)`."""
        return np.asarray(self._means)

    @property
    def covariances(self) -> Float[np.ndarray, "k d d"]:
        """The covariances of the components, of shape `(k, d, d)`."""
        return np.asarray(self._covariances)

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mean of the mixture, of shape `(d,)`."""
        return np.asarray(self._weights) @ self.means

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The covariance of the mixture, of shape `(d, d)`."""
        offsets = self.means - self.mean[None]
        seconds = self.covariances + offsets[:, :, None] * offsets[:, None, :]
        return np.einsum("k,kij->ij", np.asarray(self._weights), seconds)

    def _draw(self, labels: Int[Array, " n"], key: PRNGKey) -> Float[Array, "n d"]:
        noise = jax.random.normal(key, (len(labels), self.dim))
        coloured = jnp.einsum("kij,nj->nki", np.linalg.cholesky(self.covariances), noise)
        return jnp.asarray(self.means)[labels] + coloured[jnp.arange(len(labels)), labels]

    def _class_log_prob(self, z: Float[Array, " d"]) -> Float[Array, " k"]:
        root = np.linalg.cholesky(self.covariances)
        whiten = jnp.asarray(np.linalg.inv(root), z.dtype)
        log_norm = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1) + self.dim / 2 * math.log(2 * math.pi)
        white = jnp.einsum("kij,kj->ki", whiten, z[None, :] - jnp.asarray(self.means, z.dtype))
        return -jnp.sum(white**2, axis=-1) / 2 - jnp.asarray(log_norm, z.dtype)


@checked
def gaussian_mixture(
    n: int, means: ArrayOrList, covariances: ArrayOrList, weights: ArrayOrList | None = None, *, key: PRNGKey
) -> tuple[Float[Array, "{n} d"], Int32[Array, "{n}"]]:
    """Draw points and labels from a [`flowprop.data.GaussianMixture`][].

    ```python
    import jax
    import numpy as np
    import flowprop as fp

    means = np.array([[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    covariances = np.array([np.eye(3), 0.2 * np.eye(3)])
    points, labels = fp.data.gaussian_mixture(
        1000, means, covariances, key=jax.random.key(0)
    )
    print(points.shape, labels.shape)  # (1000, 3) (1000,)
    ```

    **Arguments:**

    - `n`: the number of points.
    - `means`: the means of the components, of shape `(k, d)`.
    - `covariances`: their covariances, of shape `(k, d, d)`, symmetric and positive definite.
    - `weights`: their probabilities, positive numbers of shape `(k,)`, which are divided by their sum. By default all
      are equal.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, d)`, and labels `(n,)` in `0 ... k - 1`: the component.

    **Raises:** `ValueError` if a shape is wrong, a mean is not finite, a weight is not positive, a covariance is not
    symmetric and positive definite, or `n` is negative.
    """
    return GaussianMixture(means, covariances, weights).sample(n, key=key)
