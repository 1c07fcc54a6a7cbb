"""Least squares of parameters on observations: the linear-gaussian model from which a posterior's flow begins."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from .._transform import Whiten


#: Up to this many parameters, and numbers of an observation, the model is fitted.
LARGEST = 100, 1000
#: The penalties of the squared coefficients that are tried, as shares of the number of simulations.
_PENALTIES = 10.0 ** np.arange(-6, 3)


class LinearGaussian(NamedTuple):
    """The model `theta | x ~ N(mean + L A f, L L^T)` with the features `f` of `x`.

    In the coordinates `z = L^-1 (theta - mean)` it is `N(A f, I)`.
    """

    transform: Whiten
    matrix: Float[np.ndarray, "d k"]


def linear_gaussian(theta: Array | np.ndarray, features: Array | np.ndarray) -> LinearGaussian:
    """The linear-gaussian model of simulations, by ridge regression (Hoerl and Kennard 1970).

    The penalty is the one with the smallest error of predictions that leave one simulation out, which has a closed form
    ([Golub et al. 1979](https://doi.org/10.1080/00401706.1979.10489751), section 1).

    **Arguments:**

    - `theta`: the parameters, `(n, *shape)`, `d` numbers each. No column is constant.
    - `features`: the standardised observations, `(n, k)`.

    **Returns:** the model.
    """
    shape = theta.shape[1:]
    rows = np.asarray(theta, np.float64).reshape(len(theta), -1)
    features = np.asarray(features, np.float64)
    count, size = rows.shape
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    units = (rows - mean) / std
    centre = features.mean(axis=0)
    values, vectors = np.linalg.eigh((features - centre).T @ (features - centre))
    rotated = (features - centre) @ vectors
    products = rotated.T @ units
    best = np.inf, np.zeros((len(values), size)), units
    for penalty in count * _PENALTIES:
        shrunk = 1 / (np.maximum(values, 0) + penalty)
        coefficients = shrunk[:, None] * products
        leverage = (rotated**2) @ shrunk + 1 / count
        left_out = (units - rotated @ coefficients) / (1 - leverage)[:, None]
        error = float(np.mean(left_out**2))
        if error < best[0]:
            best = error, coefficients, left_out
    _, coefficients, residuals = best
    covariance = residuals.T @ residuals / count
    # As if `d` more simulations had no correlations; and a residual is never taken to be exactly 0.
    spread = np.diag(covariance)
    covariance = (count * covariance + size * np.diag(spread)) / (count + size) + 1e-8 * np.eye(size)
    factor = np.linalg.cholesky(covariance)
    matrix = np.linalg.solve(factor, (vectors @ coefficients).T)
    offset = rows.mean(axis=0) - std * (factor @ (matrix @ centre))
    return LinearGaussian(Whiten(offset.reshape(shape), std[:, None] * factor), matrix)
