"""This library's flows as a subject: the exact network in each prediction's own units, and the checks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.flow import Flow
from .._likelihood.log_prob import log_prob
from .._path.path import AbstractPath, derivative
from .._path.prediction import (
    AbstractPrediction,
    EarlyStopPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    TargetPrediction,
    VelocityPrediction,
)
from .._solve.sample import sample
from .._types import Point, Time, checked
from ._check import AbstractCheck
from ._exact import Exact, Fields
from ._fields import NoiseIsExact, ScoreIsExact, TargetIsExact, VelocityIsExact
from ._likelihood import LogProbIsExact
from ._mixture import Mixture
from ._sampling import SamplesHaveMoments


class Denoiser(eqx.Module):
    """The network that knows the data: it returns what a prediction asks for, exactly.

    **Arguments:**

    - `data`: a gaussian or a mixture of them.
    - `path`, `prediction`: those of the flow.

    **Raises:** `TypeError` when called, for a prediction of another kind.
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
            f"`prediction` is {type(self.prediction).__name__}, whose exact output is not known here: make the flow "
            "with a network of your own that returns it"
        )


@checked
def exact_flow(data: Mixture, path: AbstractPath, prediction: AbstractPrediction) -> Flow:
    """A flow that needs no training, for it knows its data.

    **Arguments:**

    - `data`: a gaussian or a mixture of them.
    - `path`, `prediction`: as of [`flowprop.Flow`][].

    **Returns:** the flow.
    """
    return Flow(Denoiser(data, path, prediction), path, prediction, shape=data.mean.shape)


@checked
def field_checks(flow: Flow, data: Mixture) -> list[AbstractCheck]:
    """What a flow of this library must say at a point: velocity, target, noise and score.

    For a path or a prediction of your own: `assert_conforms(field_checks(flow, data), key=key)`.

    **Arguments:**

    - `flow`: one whose network knows the data, such as [`flowprop.conformance.exact_flow`][] makes.
    - `data`: the data that it knows.

    **Returns:** the checks.
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
    """What a flow of this library must give when it is integrated: samples and log-likelihood.

    Arguments as of [`flowprop.conformance.field_checks`][].
    """
    exact = Exact(data, flow.path, flow.span)
    return [
        SamplesHaveMoments(exact, lambda num_samples, key: sample(flow, num_samples, key=key)),
        LogProbIsExact(exact, lambda z1: log_prob(flow, z1)),
    ]


@eqx.filter_jit
def _fields(flow: Flow, t: Array, z: Array) -> Fields:
    return Fields(*flow.estimate(t, z), flow.score(t, z))
