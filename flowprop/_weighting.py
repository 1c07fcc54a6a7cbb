"""Where in time a loss looks, and how much it counts there."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from ._path import AbstractPath, derivative
from ._prediction import AbstractPrediction
from ._schedule import with_fixed_ends
from ._types import PRNGKey, Real, Scalar, Times, check_positive, checked


Weights = Float[Array, "*times"]


class AbstractWeighting(eqx.Module):
    """The factor of an error, given its time; it is handed path and prediction."""

    @abc.abstractmethod
    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        """The weights, at one time or a batch's, of errors in the units of the network's output."""


class UniformWeighting(AbstractWeighting):
    """1: the error counts as the network makes it."""

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return jnp.ones_like(path.alpha(t))


class ELBOWeighting(AbstractWeighting):
    """The evidence lower bound's: `SNR'(t)/2` of the target's error, `gamma'/2` of the noise's.

    (Kingma et al. 2021, eq. 17.) It is invariant under a change of the schedule between its ends,
    and unbounded on the CondOT path, whose SNR is.
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return derivative(path.gamma, t) / 2 * snr(path, t) / prediction.scale(path, t)


class NormalisedELBOWeighting(AbstractWeighting):
    """The bound's weight over its mean, so that losses compare across schedules.

    For the target's error that is `SNR'(t) / (SNR(1) - SNR(0))`.
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        mean = (snr(path, 1.0) - snr(path, 0.0)) / 2
        return ELBOWeighting().weight(path, prediction, t) / mean


class BatchNormalisedELBOWeighting(AbstractWeighting):
    """The bound's weight over its mean in the batch: what is left is how the batch's errors compare.

    It needs no bound on the SNR, but makes of each example's share a matter of its neighbours; one
    time alone has weight 1. [`flowprop.NormalisedELBOWeighting`][] divides by the mean over all times.
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        weights = ELBOWeighting().weight(path, prediction, t)
        return weights / jnp.mean(weights)


@checked
class StepELBOWeighting(AbstractWeighting):
    """The bound's in equal steps: `T/2 (SNR(t + 1/T) - SNR(t))` of the target's error at the start of a step.

    (Kingma et al. 2021, eq. 13; NoProp, eq. 8.) Its mean over the steps is the sum of the bound's terms.

    **Arguments:**

    - `num_steps`: `T`.

    **Raises:** `ValueError` if `num_steps` is not positive.
    """

    num_steps: int

    def __check_init__(self) -> None:
        check_positive(num_steps=self.num_steps)

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        rise = snr(path, t + 1 / self.num_steps) - snr(path, t)
        return self.num_steps / 2 * rise / prediction.scale(path, t)


@checked
class MinSNRWeighting(AbstractWeighting):
    """`min(SNR, limit)` of the target's error (Hang et al. 2023).

    **Arguments:**

    - `limit`: where the SNR is cut, positive.

    **Raises:** `ValueError` if `limit` is not positive.
    """

    limit: Real = 5.0

    def __check_init__(self) -> None:
        if self.limit <= 0:
            raise ValueError(f"`limit` is {self.limit}: the weights are positive only under a positive one")

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return jnp.minimum(snr(path, t), self.limit) / prediction.scale(path, t)


def snr(path: AbstractPath, t: Times) -> Weights:
    """The signal-to-noise ratio `exp(gamma) = alpha^2 / sigma^2`."""
    return jnp.exp(path.gamma(t))


class AbstractTimeSampling(eqx.Module):
    """The distribution of training times.

    A loss is not corrected for it: drawing times from a density is to weight the loss by it.
    """

    @abc.abstractmethod
    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        """Times in [0, 1]."""


class UniformTimeSampling(AbstractTimeSampling):
    """Each time uniform on [0, 1], on its own."""

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jax.random.uniform(key, (num_times,))


class StratifiedTimeSampling(AbstractTimeSampling):
    """Evenly spaced times under one random shift modulo 1 (Kingma et al. 2021, appendix I.1).

    Each is uniform on [0, 1] whatever its place in the batch, and one falls in every stratum of
    width 1 / n: the same expectation as uniform times, at less variance.
    """

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        shift = jax.random.uniform(key)
        return (shift + jnp.arange(num_times) / num_times) % 1.0


@checked
class LogitNormalTimeSampling(AbstractTimeSampling):
    """`logit(t)` normal (Esser et al. 2024, section 3.1), stratified over the batch.

    **Arguments:**

    - `mean`: above 0 looks more at the data's end, below 0 at the noise's.
    - `std`: positive.

    **Raises:** `ValueError` if `std` is not positive.
    """

    mean: Real = 0.0
    std: Real = 1.0

    def __check_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"`std` is {self.std}: the standard deviation of a logit is positive")

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        uniform = StratifiedTimeSampling().sample(num_times, key=key)
        inside = jnp.clip(uniform, 1e-6, 1 - 1e-6)  # the quantile is infinite at 0 and 1
        return jax.nn.sigmoid(self.mean + self.std * ndtri(inside))


@checked
class PowerTimeSampling(AbstractTimeSampling):
    """Density `exponent t^(exponent - 1)`, stratified over the batch.

    **Arguments:**

    - `exponent`: 1 is uniform; below 1 looks more at the noise's end, above 1 at the data's.

    **Raises:** `ValueError` if `exponent` is not positive.
    """

    exponent: Real = 1.0

    def __check_init__(self) -> None:
        if self.exponent <= 0:
            raise ValueError(f"`exponent` is {self.exponent}: the density is normalisable for a positive one only")

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return StratifiedTimeSampling().sample(num_times, key=key) ** (1 / self.exponent)


@checked
class GridTimeSampling(AbstractTimeSampling):
    """The times at which equal steps of Euler look, `0, 1/k, ..., (k - 1)/k`, each as often, stratified over the batch.

    On pairs of noise and data ([`flowprop.PairedFlow`][]) it trains a flow for `k` steps and no more; `k = 1`
    trains for one evaluation.

    **Arguments:**

    - `num_steps`: `k`.

    **Raises:** `ValueError` if `num_steps` is not positive.
    """

    num_steps: int

    def __check_init__(self) -> None:
        check_positive(num_steps=self.num_steps)

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jnp.floor(self.num_steps * StratifiedTimeSampling().sample(num_times, key=key)) / self.num_steps


def schedule_loss(path: AbstractPath, t: Float[Array, " batch"], elbo: Float[Array, " batch"]) -> Scalar:
    """A term of value 0 whose gradient in the path's parameters lowers the variance of the bound.

    The bound is `int h(gamma) d gamma`, whatever the schedule between its ends; times uniform in
    `t` draw gamma with density `q = 1 / gamma'`, so that the estimate `r = h / q` has second moment
    `V = int h^2 / q d gamma`. With `h` held fixed at a given gamma,
    `dV = E[r^2 (d gamma' / gamma' - gamma'' / gamma'^2 d gamma)]`, `d` the change with the
    parameters at fixed t. This needs no derivative of the network, unlike the pathwise gradient of
    Kingma et al. 2021, section 5; the gradient returned is that of `log V`. The end points take no
    part.

    **Arguments:**

    - `path`: the path being trained.
    - `t`: the batch's times.
    - `elbo`: each example's term of the bound, `r`.
    """
    fixed = jax.lax.stop_gradient
    path = with_fixed_ends(path)

    def slope(s: Array) -> Array:
        return derivative(path.gamma, s)

    gamma, first, second = path.gamma(t), slope(t), derivative(slope, t)
    share = fixed(jnp.square(elbo) / jnp.mean(jnp.square(elbo)))
    term = jnp.mean(share * (first / fixed(first) - fixed(second / jnp.square(first)) * gamma))
    return term - fixed(term)
