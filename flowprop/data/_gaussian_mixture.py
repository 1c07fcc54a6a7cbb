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
    """The mixture `p(z) = sum_k w_k N(z; m_k, C_k)`, whose components are the classes.

    Its moments are known: `mean = sum_k w_k m_k`, `covariance = sum_k w_k (C_k + m_k m_k^T) - mean mean^T`.
    The parameters are kept as float64 numbers and rounded to the type of the points where they are used; they cannot be
    traced. See also [`flowprop.data.GaussianMixture.isotropic`][].
    """

    _means: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    _covariances: tuple[tuple[tuple[float, ...], ...], ...] = eqx.field(static=True)
    _weights: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, means: ArrayOrList, covariances: ArrayOrList, weights: ArrayOrList | None = None):
        """**Arguments:**

        - `means`: of shape `(k, d)`.
        - `covariances`: of shape `(k, d, d)`, symmetric and positive definite.
        - `weights`: of shape `(k,)`, positive; divided by their sum. Equal if left out.

        **Raises:** `ValueError` if a shape is wrong, a weight not positive, or a covariance not positive definite.
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
        """A mixture with covariances `stds^2 I`.

        **Arguments:**

        - `means`: of shape `(k, d)`.
        - `stds`: standard deviations, of shape `(k,)` or one number for all.
        - `weights`: as in the constructor.

        **Returns:** the mixture.

        **Raises:** `ValueError` as the constructor does.
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
        """The components' means."""
        return np.asarray(self._means)

    @property
    def covariances(self) -> Float[np.ndarray, "k d d"]:
        """The components' covariances."""
        return np.asarray(self._covariances)

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mixture's mean."""
        return np.asarray(self._weights) @ self.means

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The mixture's covariance."""
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
    """Draw from [`flowprop.data.GaussianMixture`][].

    **Arguments:**

    - `n`: how many points.
    - `means`: of shape `(k, d)`.
    - `covariances`: of shape `(k, d, d)`, symmetric and positive definite.
    - `weights`: of shape `(k,)`, positive; divided by their sum. Equal if left out.
    - `key`: a typed key.

    **Returns:** points `(n, d)`, labels `(n,)` in `0 ... k - 1`, the component.

    **Raises:** `ValueError` if a shape is wrong, a weight not positive, a covariance not positive definite, or `n`
    negative.
    """
    return GaussianMixture(means, covariances, weights).sample(n, key=key)
