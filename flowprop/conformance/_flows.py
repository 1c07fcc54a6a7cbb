"""Flows of this library under test: the exact network for each kind of prediction, and ready-made lists of checks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.flow import Flow
from .._likelihood.log_prob import log_prob
from .._path.early_stop import EarlyStopPrediction
from .._path.path import AbstractPath
from .._path.prediction import (
    AbstractPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    TargetPrediction,
    VelocityPrediction,
)
from .._path.span import derivative
from .._solve.sample import sample
from .._types import Point, Time, checked
from ._check import AbstractCheck
from ._exact import Exact, Fields
from ._fields import NoiseIsExact, ScoreIsExact, TargetIsExact, VelocityIsExact
from ._likelihood import LogProbIsExact
from ._mixture import Mixture
from ._sampling import SamplesHaveMoments


class Denoiser(eqx.Module):
    """An exact network for a flow of this library: it returns the output that the flow's prediction expects.

    It computes `E[z_1 | z_t = z]` and `E[z_0 | z_t = z]` of known data in closed form and converts them: to the target,
    the noise, the velocity or the output of a [`flowprop.PreconditionedPrediction`][]. Use
    [`flowprop.conformance.exact_flow`][] to build a flow with it.

    **Arguments:**

    - `data`: the data distribution, a [`flowprop.conformance.Mixture`][].
    - `path`: the path of the flow.
    - `prediction`: the prediction of the flow.

    **Raises:** `TypeError`, when called, for any other kind of prediction.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    path, prediction = fp.CondOTPath(), fp.VelocityPrediction()
    network = fp.conformance.Denoiser(fp.conformance.MIXTURE, path, prediction)
    print(network(0.5, jnp.zeros(2)).shape)  # (2,)
    ```
    """

    data: Mixture
    path: AbstractPath
    prediction: AbstractPrediction

    def __call__(self, t: Time, z: Point, x: PyTree = None) -> Point:
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        target, noise = self.data.expectations(alpha, sigma, z)
        prediction = self.prediction
        while isinstance(prediction, EarlyStopPrediction):
            prediction = prediction.prediction
        match prediction:
            case TargetPrediction():
                return target
            case NoisePrediction():
                return noise
            case VelocityPrediction():
                return derivative(self.path.alpha, t) * target + derivative(self.path.sigma, t) * noise
            case PreconditionedPrediction(data_std=s):
                return (sigma / s * target - alpha * s * noise) / jnp.hypot(alpha * s, sigma)
        raise TypeError(
            f"`prediction` is {type(self.prediction).__name__}, and `Denoiser` does not know its exact output: build "
            "the flow with your own network that returns it"
        )


@checked
def exact_flow(data: Mixture, path: AbstractPath, prediction: AbstractPrediction) -> Flow:
    """Build a flow whose network is exact for known data, so that it needs no training.

    **Arguments:**

    - `data`: the data distribution, a [`flowprop.conformance.Mixture`][].
    - `path`: the path from noise to data, such as [`flowprop.CondOTPath`][].
    - `prediction`: what the network predicts, such as [`flowprop.VelocityPrediction`][].

    **Returns:** the [`flowprop.Flow`][], with a [`flowprop.conformance.Denoiser`][] as its network.

    **Raises:** `ValueError` if [`flowprop.Flow`][] refuses the combination.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    data, path = fp.conformance.GAUSSIAN, fp.CondOTPath()
    flow = fp.conformance.exact_flow(data, path, fp.TargetPrediction())
    print(flow.velocity(0.5, jnp.zeros(2)).shape)  # (2,)
    ```
    """
    return Flow(Denoiser(data, path, prediction), path, prediction, shape=data.mean.shape)


@checked
def field_checks(flow: Flow, data: Mixture) -> list[AbstractCheck]:
    """Make the checks of a flow of this library at single points: velocity, target, noise and score.

    Use it to test your own path or prediction.

    **Arguments:**

    - `flow`: a flow whose network is exact for `data`, for example from [`flowprop.conformance.exact_flow`][].
    - `data`: the data distribution of the flow, a [`flowprop.conformance.Mixture`][].

    **Returns:** a list of four checks.

    ```python
    import flowprop as fp
    import jax

    data, path = fp.conformance.GAUSSIAN, fp.trigonometric_path()
    flow = fp.conformance.exact_flow(data, path, fp.VelocityPrediction())
    checks = fp.conformance.field_checks(flow, data)
    fp.conformance.assert_conforms(checks, key=jax.random.key(0))
    ```
    """
    exact = Exact(data, flow.path, flow.span)
    return [
        VelocityIsExact(exact, lambda t, z: _fields(flow, t, z).velocity),
        TargetIsExact(exact, lambda t, z: _fields(flow, t, z).target),
        NoiseIsExact(exact, lambda t, z: _fields(flow, t, z).noise),
        ScoreIsExact(exact, lambda t, z: _fields(flow, t, z).score),
    ]


@checked
def solve_checks(flow: Flow, data: Mixture) -> list[AbstractCheck]:
    """Make the checks of a flow of this library that integrate its ODE: samples and log-likelihood.

    Use it to test your own path or prediction.

    **Arguments:**

    - `flow`: a flow whose network is exact for `data`, for example from [`flowprop.conformance.exact_flow`][].
    - `data`: the data distribution of the flow, a [`flowprop.conformance.Mixture`][].

    **Returns:** a list of two checks.

    ```python
    import flowprop as fp
    import jax

    data, path = fp.conformance.GAUSSIAN, fp.CondOTPath()
    flow = fp.conformance.exact_flow(data, path, fp.VelocityPrediction())
    checks = fp.conformance.solve_checks(flow, data)
    fp.conformance.assert_conforms(checks, key=jax.random.key(0))
    ```
    """
    exact = Exact(data, flow.path, flow.span)
    return [
        SamplesHaveMoments(exact, lambda num_samples, key: sample(flow, num_samples, key=key)),
        LogProbIsExact(exact, lambda z1: log_prob(flow, z1)),
    ]


@eqx.filter_jit
def _fields(flow: Flow, t: Array, z: Array) -> Fields:
    return Fields(*flow.estimate(t, z), flow.score(t, z))
