"""How much an error counts at each time, and what trains a learnable schedule."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._path import AbstractPath
from ._prediction import AbstractPrediction
from ._schedule import with_fixed_ends
from ._span import derivative
from ._time_sampling import below_one
from ._types import Real, Scalar, Times, check_number, check_positive, checked


Weights = Float[Array, "*times"]


class AbstractWeighting(eqx.Module):
    """The factor of an error, given its time; it is handed path and prediction.

    A weighting of your own defines `weight`, and `needs_finite_snr` as `True` if it divides by, or subtracts, the SNR
    at the end of the span.
    """

    @property
    def needs_finite_snr(self) -> bool:
        """Whether a flow is refused whose SNR is infinite at the end of its span."""
        return False

    @abc.abstractmethod
    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        """The weights, at one time or a batch's, of errors in the units of the network's output."""


class UniformWeighting(AbstractWeighting):
    """1: the error counts as the network makes it.

    ```python
    import flowprop as fp

    flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), weighting=fp.UniformWeighting())
    ```
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return jnp.ones_like(path.alpha(t))


class ELBOWeighting(AbstractWeighting):
    """The evidence lower bound's: `SNR'(t)/2` of the target's error, `gamma'/2` of the noise's.

    (Kingma et al. 2021, [arXiv:2107.00630](https://arxiv.org/abs/2107.00630), eq. 17.) It is invariant under a change
    of the schedule between its ends. It is computed as `alpha w / sigma^3` with `w = alpha' sigma - alpha sigma'`, in
    which nothing is infinite while `sigma > 0`. On the straight path that is `t / (1 - t)^3` of the target's error,
    `1 / (t (1 - t))` of the noise's and `t / (1 - t)` of the velocity's.

    A weight whose path ends without noise rises without bound towards `t = 1`. Training times are below 1, and the
    weight at 1 is that of the largest number below 1. The loss of a velocity or a preconditioned target on such a
    path has a finite mean only if the network becomes exact as `t` tends to 1, and a large variance otherwise:
    [`flowprop.EarlyStopPrediction`][] or [`flowprop.MinSNRWeighting`][] bounds its weights.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), weighting=fp.ELBOWeighting())
    flow.weight(0.5)  # 1.0
    ```
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        t = jnp.asarray(t, jnp.result_type(t, float))
        dtype, t = t.dtype, below_one(t)
        t = t.astype(jnp.promote_types(dtype, jnp.float32))  # in half precision sigma^3 is soon 0
        of_target = path.alpha(t) * path.wronskian(t) / path.sigma(t) ** 3
        return (of_target / prediction.scale(path, t)).astype(dtype)


class NormalisedELBOWeighting(AbstractWeighting):
    """The bound's weight over its mean, so that losses compare across schedules.

    For the target's error that is `SNR'(t) (t_1 - t_0) / (SNR(t_1) - SNR(t_0))` over a span `[t_0, t_1]`. The SNR at
    the end of the span has to be finite: [`flowprop.Flow`][] refuses a velocity on the straight path, for example.

    ```python
    import flowprop as fp

    flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), weighting=fp.NormalisedELBOWeighting())
    ```
    """

    needs_finite_snr: ClassVar[bool] = True

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        start, end = prediction.span(path)
        mean = (snr(path, end) - snr(path, start)) / (2 * (end - start))
        return ELBOWeighting().weight(path, prediction, t) / mean


class BatchNormalisedELBOWeighting(AbstractWeighting):
    """The bound's weight over its mean in the batch: what is left is how the batch's errors compare.

    It needs no finite SNR, but each example's weight depends on the other times in the batch. One time alone has weight
    1. [`flowprop.NormalisedELBOWeighting`][] divides by the mean over all times.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), weighting=fp.BatchNormalisedELBOWeighting())
    ```
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        weights = ELBOWeighting().weight(path, prediction, t)
        mean = jnp.mean(weights)
        # The weights of a batch may all be 0: that of a velocity at t = 0 is.
        return jnp.where(mean > 0, weights / jnp.where(mean > 0, mean, 1), 1)


@checked
class StepELBOWeighting(AbstractWeighting):
    """The bound's in equal steps: `T/2 (SNR(t + h) - SNR(t))` of the target's error at the start `t` of a step.

    (Kingma et al. 2021, [arXiv:2107.00630](https://arxiv.org/abs/2107.00630), eq. 13; NoProp, eq. 8.) The steps divide
    the span, `h = (t_1 - t_0) / T`, and the last one ends with it. The mean of the weights over the steps is the sum of
    the bound's terms. The SNR at the end of the span has to be finite.

    **Arguments:**

    - `num_steps`: `T`.

    **Raises:** `ValueError` if `num_steps` is not positive.

    ```python
    import flowprop as fp

    flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), weighting=fp.StepELBOWeighting(10))
    ```
    """

    num_steps: int

    needs_finite_snr: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_positive(num_steps=self.num_steps)

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        start, end = prediction.span(path)
        rise = snr(path, jnp.minimum(t + (end - start) / self.num_steps, end)) - snr(path, t)
        return self.num_steps / 2 * rise / prediction.scale(path, t)


@checked
class MinSNRWeighting(AbstractWeighting):
    """`min(SNR, limit)` of the target's error.

    (Hang et al. 2023, [arXiv:2303.09556](https://arxiv.org/abs/2303.09556).)

    **Arguments:**

    - `limit`: where the SNR is cut, positive.

    **Raises:** `ValueError` if `limit` is not positive.

    ```python
    import flowprop as fp

    flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), weighting=fp.MinSNRWeighting(5.0))
    ```
    """

    limit: Real = 5.0

    def __check_init__(self) -> None:
        check_number("limit", self.limit, above=0, remedy="the weights are positive only under a positive limit")

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return jnp.minimum(snr(path, t), self.limit) / prediction.scale(path, t)


def snr(path: AbstractPath, t: Times) -> Weights:
    """The signal-to-noise ratio `alpha^2 / sigma^2`."""
    return jnp.square(path.alpha(t) / path.sigma(t))


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
