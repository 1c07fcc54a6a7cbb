"""Checks of what a flow says at one point of the path."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._types import PRNGKey, Real, checked
from ._check import AbstractCheck, Report, as_points
from ._exact import Exact, Fields


#: A callable `field(t, z)` at one time and one point, in path coordinates.
Field = Callable[..., Any]


def _largest_error(exact: Exact, view: Callable[[Fields], Any], given: Field, key: PRNGKey) -> float:
    """Relative to 1 plus the true value, at four points of each of three times inside of the span."""
    start, end = exact.span
    times = start + (end - start) * np.repeat([0.1, 0.5, 0.9], 4)
    points = exact.draw(times, key=key)
    wanted = view(exact.truth(times, points))
    found = [given(jnp.asarray(t, z.dtype), z) for t, z in zip(times, points, strict=True)]
    errors = np.stack([as_points("field(t, z)", value, wanted.shape[1:]) for value in found]) - wanted
    return float(np.max(np.abs(errors) / (1 + np.abs(wanted))))


@checked
@dataclass(frozen=True)
class VelocityIsExact(AbstractCheck):
    """Around the exact network the velocity is that of the probability-flow ODE, `alpha' u + sigma' eps`.

    **Arguments:**

    - `exact`: the data and the path.
    - `velocity`: the subject's, a callable `velocity(t, z)` on one point in path coordinates.
    - `tolerance`: of the error relative to 1 plus the velocity; the default leaves room for single precision.
    """

    exact: Exact
    velocity: Field
    tolerance: Real = 1e-3

    def measure(self, *, key: PRNGKey) -> Report:
        error = _largest_error(self.exact, lambda truth: truth.velocity, self.velocity, key)
        return self.report("largest relative error of the velocity", error, most=self.tolerance)


@checked
@dataclass(frozen=True)
class TargetIsExact(AbstractCheck):
    """Around the exact network the target is `E[z_1 | z_t]`.

    **Arguments:** as of [`flowprop.conformance.VelocityIsExact`][], with `target` a callable `target(t, z)`.
    """

    exact: Exact
    target: Field
    tolerance: Real = 1e-3

    def measure(self, *, key: PRNGKey) -> Report:
        error = _largest_error(self.exact, lambda truth: truth.target, self.target, key)
        return self.report("largest relative error of the target", error, most=self.tolerance)


@checked
@dataclass(frozen=True)
class NoiseIsExact(AbstractCheck):
    """Around the exact network the noise is `E[z_0 | z_t]`.

    **Arguments:** as of [`flowprop.conformance.VelocityIsExact`][], with `noise` a callable `noise(t, z)`.
    """

    exact: Exact
    noise: Field
    tolerance: Real = 1e-3

    def measure(self, *, key: PRNGKey) -> Report:
        error = _largest_error(self.exact, lambda truth: truth.noise, self.noise, key)
        return self.report("largest relative error of the noise", error, most=self.tolerance)


@checked
@dataclass(frozen=True)
class ScoreIsExact(AbstractCheck):
    """Around the exact network the score is `grad log p_t(z)`.

    **Arguments:** as of [`flowprop.conformance.VelocityIsExact`][], with `score` a callable `score(t, z)`.
    """

    exact: Exact
    score: Field
    tolerance: Real = 1e-3

    def measure(self, *, key: PRNGKey) -> Report:
        error = _largest_error(self.exact, lambda truth: truth.score, self.score, key)
        return self.report("largest relative error of the score", error, most=self.tolerance)
