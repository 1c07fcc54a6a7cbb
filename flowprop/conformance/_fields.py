"""Checks of velocity, target, noise and score at single points of the path."""

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
    """The largest error relative to 1 plus the true value, at four points of each of three times inside the span."""
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
    """Checks that the velocity of a flow with the exact network is that of the probability-flow ODE.

    It catches a network output of another kind, such as the target, that is integrated as if it were the velocity. The
    exact value is `alpha' E[z_1 | z_t = z] + sigma' E[z_0 | z_t = z]`
    ([Albergo et al. 2023](https://arxiv.org/abs/2303.08797), section 2).

    The check compares at four points of each of three times inside the span.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `velocity`: the callable under test, `velocity(t, z)`, from a time and one point `(d,)` in path coordinates to an
      array `(d,)`.
    - `tolerance`: the largest allowed error, relative to 1 plus the absolute true value. The default, 1e-3, is
      above the rounding errors of single precision.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())
    right = fp.conformance.VelocityIsExact(exact, eqx.filter_jit(flow.velocity))
    wrong = fp.conformance.VelocityIsExact(exact, jax.jit(exact.target))  # another quantity
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
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
    """Checks that the target of a flow with the exact network is `E[z_1 | z_t = z]`.

    It catches a noise prediction that is taken for the target, or a wrong conversion between the two. The target is
    called x0-prediction or denoiser output in the literature; see, for example,
    [Karras et al. 2022](https://arxiv.org/abs/2206.00364), section 2.

    The check compares at four points of each of three times inside the span.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `target`: the callable under test, `target(t, z)`, from a time and one point `(d,)` in path coordinates to an
      array `(d,)`.
    - `tolerance`: the largest allowed error, relative to 1 plus the absolute true value. The default, 1e-3, is
      above the rounding errors of single precision.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())
    right = fp.conformance.TargetIsExact(exact, eqx.filter_jit(flow.target))
    wrong = fp.conformance.TargetIsExact(exact, jax.jit(exact.noise))  # another quantity
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
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
    """Checks that the noise of a flow with the exact network is `E[z_0 | z_t = z]`.

    It catches a target prediction that is taken for the noise, or a wrong conversion between the two. The noise is
    called epsilon in the literature ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), section 3.2).

    The check compares at four points of each of three times inside the span.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `noise`: the callable under test, `noise(t, z)`, from a time and one point `(d,)` in path coordinates to an
      array `(d,)`.
    - `tolerance`: the largest allowed error, relative to 1 plus the absolute true value. The default, 1e-3, is
      above the rounding errors of single precision.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())
    right = fp.conformance.NoiseIsExact(exact, eqx.filter_jit(flow.noise))
    wrong = fp.conformance.NoiseIsExact(exact, jax.jit(exact.target))  # another quantity
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
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
    """Checks that the score of a flow with the exact network is `grad_z log p_t(z)`.

    It catches a score with the wrong sign or the wrong scale. In terms of the noise the score is
    `-E[z_0 | z_t = z] / sigma` ([Albergo et al. 2023](https://arxiv.org/abs/2303.08797), section 2).

    The check compares at four points of each of three times inside the span.

    **Arguments:**

    - `exact`: the data and the path, a [`flowprop.conformance.Exact`][].
    - `score`: the callable under test, `score(t, z)`, from a time and one point `(d,)` in path coordinates to an
      array `(d,)`.
    - `tolerance`: the largest allowed error, relative to 1 plus the absolute true value. The default, 1e-3, is
      above the rounding errors of single precision.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    flow = fp.conformance.exact_flow(exact.data, exact.path, fp.VelocityPrediction())
    right = fp.conformance.ScoreIsExact(exact, eqx.filter_jit(flow.score))
    wrong = fp.conformance.ScoreIsExact(exact, lambda t, z: -exact.score(t, z))
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    exact: Exact
    score: Field
    tolerance: Real = 1e-3

    def measure(self, *, key: PRNGKey) -> Report:
        error = _largest_error(self.exact, lambda truth: truth.score, self.score, key)
        return self.report("largest relative error of the score", error, most=self.tolerance)
