"""The weight of an error at each time."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._path.path import AbstractPath
from .._path.prediction import AbstractPrediction
from .._types import Real, Times, check_number, check_positive, checked
from .time_sampling import below_one


Weights = Float[Array, "*times"]


class AbstractWeighting(eqx.Module):
    """The factor of an error in the loss, as a function of time. Usual name: loss weighting.

    A weighting of your own defines `weight`. It defines `needs_finite_snr` as `True` if it divides by, or subtracts,
    the SNR at the end of the span.
    """

    @property
    def needs_finite_snr(self) -> bool:
        """Whether the SNR has to be finite at the end of the flow's span. Otherwise `Flow` raises an error."""
        return False

    @abc.abstractmethod
    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        """The weights of errors in the units of the network's output.

        **Arguments:**

        - `path`: the path of the flow.
        - `prediction`: the prediction of the flow.
        - `t`: one time in the span, or the times of a batch.

        **Returns:** an array of the shape of `t`.
        """


class UniformWeighting(AbstractWeighting):
    """The weight 1, in the units of the network's output.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.ct_flow(network, shape=(2,), weighting=fp.UniformWeighting())
    print(flow.weight(0.9))  # 1.0
    ```
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return jnp.ones_like(path.alpha(t))


class ELBOWeighting(AbstractWeighting):
    """The weight of the evidence lower bound: `SNR'(t)/2` of the target's error, `gamma'(t)/2` of the noise's error.

    ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), eq. 17.) The bound does not change with the schedule
    between its end points. The weight is computed as `alpha w / sigma^3` with `w = alpha' sigma - alpha sigma'`, which
    is finite while `sigma > 0`. On the straight path it is `t / (1 - t)^3` of the target's error, `1 / (t (1 - t))` of
    the noise's error and `t / (1 - t)` of the velocity's error.

    If the path ends without noise, the weight grows without limit towards `t = 1`. Training times are below 1, and the
    weight at 1 is that of the largest number below 1. On such a path the loss of a velocity or a preconditioned target
    has a finite mean only if the network becomes exact as `t` tends to 1, and a large variance otherwise. To bound the
    weights, let the flow stop early (`end=` of [`flowprop.Flow`][]), or use [`flowprop.MinSNRWeighting`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,), weighting=fp.ELBOWeighting())
    print(flow.weight(0.5).round(4), flow.weight(0.8).round(4))  # 1.0 4.0
    ```
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        t = jnp.asarray(t, jnp.result_type(t, float))
        dtype, t = t.dtype, below_one(t)
        t = t.astype(jnp.promote_types(dtype, jnp.float32))  # in half precision sigma^3 underflows to 0
        of_target = path.alpha(t) * path.wronskian(t) / path.sigma(t) ** 3
        return (of_target / prediction.scale(path, t)).astype(dtype)


class NormalisedELBOWeighting(AbstractWeighting):
    """The weight of the evidence lower bound over its mean, so that losses with different schedules can be compared.

    For the target's error it is `SNR'(t) (t_1 - t_0) / (SNR(t_1) - SNR(t_0))` over a span `[t_0, t_1]`. The SNR at the
    end of the span has to be finite: [`flowprop.Flow`][] raises an error for a velocity on the straight path, for
    example.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.ct_flow(network, shape=(2,), weighting=fp.NormalisedELBOWeighting())
    times = jnp.linspace(0, 1, 10_001)
    print(flow.weight(times).mean().round(2))  # 1.0
    ```
    """

    needs_finite_snr: ClassVar[bool] = True

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        start, end = prediction.span(path)
        mean = (snr(path, end) - snr(path, start)) / (2 * (end - start))
        return ELBOWeighting().weight(path, prediction, t) / mean


class BatchNormalisedELBOWeighting(AbstractWeighting):
    """The weight of the evidence lower bound over its mean in the batch: the weights of a batch have the mean 1.

    The SNR need not be finite, but the weight of each example depends on the other times in the batch. A single time
    has the weight 1. [`flowprop.NormalisedELBOWeighting`][] divides by the mean over all times instead.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    weighting = fp.BatchNormalisedELBOWeighting()
    flow = fp.fm_flow(network, shape=(2,), weighting=weighting)
    print(flow.weight(jnp.array([0.0, 0.5, 0.75])).round(4))  # [0.   0.75 2.25]
    ```
    """

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        weights = ELBOWeighting().weight(path, prediction, t)
        mean = jnp.mean(weights)
        # All weights of a batch may be 0: the weight of a velocity is 0 at t = 0.
        return jnp.where(mean > 0, weights / jnp.where(mean > 0, mean, 1), 1)


@checked
class StepELBOWeighting(AbstractWeighting):
    """The weight of the bound in T equal steps: `T/2 (SNR(t + h) - SNR(t))` of the target's error in a step from `t`.

    ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), eq. 13; [NoProp](https://arxiv.org/abs/2503.24322), eq. 8.)
    The steps divide the span, `h = (t_1 - t_0) / T`, and the last step ends with the span. The mean of the weights over
    the steps is the sum of the terms of the bound. The SNR at the end of the span has to be finite.

    **Arguments:**

    - `num_steps`: `T`, positive.

    **Raises:** `ValueError` if `num_steps` is not positive.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.ct_flow(network, shape=(2,), weighting=fp.StepELBOWeighting(10))
    print(round(float(flow.weight(0.5)), 2))  # 13.35
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
    """The weight `min(SNR, limit)` of the target's error, `min(1, limit / SNR)` of the noise's error.

    ([Hang et al. 2023](https://arxiv.org/abs/2303.09556).)

    **Arguments:**

    - `limit`: the largest weight of the target's error, positive. By default 5.

    **Raises:** `ValueError` if `limit` is not positive.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.ct_flow(network, shape=(2,), weighting=fp.MinSNRWeighting(5.0))
    print(flow.weight(0.5).round(2), flow.weight(1.0).round(2))  # 1.0 5.0
    ```
    """

    limit: Real = 5.0

    def __check_init__(self) -> None:
        check_number("limit", self.limit, above=0, remedy="the weights are positive only for a positive limit")

    def weight(self, path: AbstractPath, prediction: AbstractPrediction, t: Times) -> Weights:
        return jnp.minimum(snr(path, t), self.limit) / prediction.scale(path, t)


def snr(path: AbstractPath, t: Times) -> Weights:
    """The signal-to-noise ratio `alpha^2 / sigma^2`."""
    return jnp.square(path.alpha(t) / path.sigma(t))
