"""The linear-gaussian model of simulations, from which the flow of a posterior begins."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._transform import AbstractTransform, Bounded, Chain, IdentityTransform, Positive, Standardise, Whiten
from .prior import WithSupport


#: The penalties of the squared coefficients that are tried, as shares of the number of simulations.
_PENALTIES = 10.0 ** np.arange(-6, 3)


class Compressed(eqx.Module):
    """An encoder for columns with extreme values: `arcsinh` of the distance from the median, then standardised.

    **Arguments:**

    - `centre`: the transform that subtracts the median and divides by half the width of the middle 68 %.
    - `standardise`: the transform of the result.
    """

    centre: Standardise
    standardise: Standardise

    def __call__(self, x: Float[Array | np.ndarray, " k"]) -> Float[Array, " k"]:
        """The features of one observation."""
        return self.standardise(jnp.arcsinh(self.centre(x)))


class LinearGaussianModel(NamedTuple):
    """The model `z | x ~ N(matrix @ encoder(x), I)` with `z = transform(theta)`."""

    encoder: Any
    transform: AbstractTransform
    matrix: Float[np.ndarray, "d k"]
    #: The mean log-likelihood of a simulation that is left out, in nats.
    log_prob: float


def linear_gaussian(
    theta: Float[np.ndarray, "n *shape"], x: Float[np.ndarray, "n k"], prior: WithSupport
) -> LinearGaussianModel:
    """The linear-gaussian model under which simulations that are left out have the largest likelihood.

    Parameters and observations are tried in several units: as they are, between the bounds of the prior
    ([`flowprop.Bounded`][]), as logarithms if they are positive, and observations also compressed.

    **Arguments:**

    - `theta`: the parameters. No column is constant.
    - `x`: the observations.
    - `prior`: their prior.

    **Returns:** the model.
    """
    encoders = [(encoder, np.asarray(jax.vmap(encoder)(jnp.asarray(x, float)))) for encoder in _encoders(x)]
    models = []
    for units, (encoder, features) in itertools.product(_units(theta, prior), encoders):
        z, log_det = jax.vmap(units.forward_and_log_det)(jnp.asarray(theta, float))
        whiten, matrix, log_prob = regression(np.asarray(z), features)
        transform = whiten if units.is_identity else Chain(units, whiten)
        models.append(LinearGaussianModel(encoder, transform, matrix, log_prob + float(np.mean(log_det))))
    return max(models, key=lambda model: model.log_prob)


def standardised(x: np.ndarray) -> Standardise:
    """The transform to mean 0 and standard deviation 1 of each column; a column that never varies becomes 0."""
    numbers = np.asarray(x, np.float64)
    std = numbers.std(axis=0)
    return Standardise(numbers.mean(axis=0), np.where(std > 1e-6 * np.abs(numbers).max(axis=0), std, 1.0))


def _encoders(x: np.ndarray) -> Iterator[Any]:
    yield standardised(x)
    numbers = np.asarray(x, np.float64)
    low, median, high = np.quantile(numbers, [0.16, 0.5, 0.84], axis=0)
    spread = np.where(high - low > 1e-6 * np.abs(numbers).max(axis=0), (high - low) / 2, numbers.std(axis=0))
    centre = Standardise(median, np.where(spread > 0, spread, 1.0))
    yield Compressed(centre, standardised(np.arcsinh((numbers - median) / np.where(spread > 0, spread, 1.0))))


def _units(theta: np.ndarray, prior: WithSupport) -> Iterator[AbstractTransform]:
    yield IdentityTransform()
    distribution = getattr(prior, "distribution", prior)
    low, high = (getattr(distribution, name, None) for name in ("low", "high"))
    if low is not None and high is not None:
        low, high = (np.broadcast_to(np.asarray(bound), theta.shape[1:]) for bound in (low, high))
        if np.all(np.isfinite(low) & np.isfinite(high)) and np.all((theta >= low) & (theta <= high)):
            yield Bounded(low, high)
    elif np.all(theta > 0) and not np.any(prior.in_support(jnp.asarray(-theta[:10], float))):
        yield Positive()


def regression(
    z: Float[np.ndarray, "n *shape"], features: Float[np.ndarray, "n k"]
) -> tuple[Whiten, Float[np.ndarray, "d k"], float]:
    """Ridge regression of points on features (Hoerl and Kennard 1970), and the units in which its errors are `N(0, I)`.

    The penalty is the one with the smallest error of predictions that leave one row out, which has a closed form
    ([Golub et al. 1979](https://doi.org/10.1080/00401706.1979.10489751), section 1).

    **Arguments:**

    - `z`: the points, of `d` numbers each. No column is constant.
    - `features`: the features.

    **Returns:** a transform `L^-1 (z - b)` and a matrix `A`, such that the transformed points are `N(A f, I)`, and the
    mean log-likelihood of a row that is left out.
    """
    shape = z.shape[1:]
    rows = np.asarray(z, np.float64).reshape(len(z), -1)
    count, size = rows.shape
    features = np.asarray(features, np.float64)
    mean, std, centre = rows.mean(axis=0), rows.std(axis=0), features.mean(axis=0)
    units, features = (rows - mean) / std, features - centre
    values, vectors = np.linalg.eigh(features.T @ features)
    rotated = features @ vectors
    products = rotated.T @ units
    fits = []
    for penalty in count * _PENALTIES:
        shrunk = 1 / (np.maximum(values, 0) + penalty)
        coefficients = shrunk[:, None] * products
        leverage = rotated**2 @ shrunk + 1 / count
        errors = (units - rotated @ coefficients) / (1 - leverage)[:, None]
        fits.append((float(np.mean(errors**2)), coefficients, errors))
    _, coefficients, errors = min(fits, key=lambda fit: fit[0])
    # As if `d` more rows had no correlations. An error is never taken to be exactly 0.
    covariance = errors.T @ errors
    covariance = (covariance + size * np.diag(np.diag(covariance)) / count) / (count + size) + 1e-8 * np.eye(size)
    factor = np.linalg.cholesky(covariance)
    matrix = np.linalg.solve(factor, (vectors @ coefficients).T)
    offset = mean - std * (factor @ (matrix @ centre))
    white = np.linalg.solve(factor, errors.T)
    log_prob = -0.5 * np.mean(np.sum(white**2, axis=0)) - np.sum(np.log(std * np.diag(factor)))
    log_prob -= 0.5 * size * math.log(2 * math.pi)
    return Whiten(offset.reshape(shape), std[:, None] * factor), matrix, float(log_prob)
