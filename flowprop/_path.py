"""Gaussian paths from noise to data, `z_t = alpha(t) z_1 + sigma(t) z_0`.

A path knows its coefficients and how the three things that a network may estimate follow from
one another: the target `E[z_1 | z_t]`, the noise `E[z_0 | z_t]`, and the velocity of the
probability-flow ODE. By definition `z = alpha u + sigma eps` and `v = alpha' u + sigma' eps`; each
path supplies the forms of these in which nothing cancels or is divided by a vanishing number.
"""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ._schedule import AbstractNoiseSchedule
from ._span import Span, derivative as derivative, known, sizes_of, spans_of
from ._types import Number, Point, Real, Scalar, Time, Times, checked


class Estimate(NamedTuple):
    """What is known of a point on the path: three views of one estimate."""

    target: Point
    noise: Point
    velocity: Point


def _share(gamma: Array) -> Array:
    """`sqrt(sigmoid(gamma))`."""
    return jnp.exp(0.5 * jax.nn.log_sigmoid(gamma))


class AbstractPath(eqx.Module):
    """The coefficients of a Gaussian path `z_t = alpha z_1 + sigma z_0`; SNR = `alpha^2 / sigma^2` rises on [0, 1].

    An estimate of one kind determines the two others over a *span* of times: `target_span`, `noise_span` and
    `velocity_span`. Together they cover `span`.

    A path of your own defines the three spans and all abstract methods. What is asked of a path besides
    (`starts_at_source`, `snr_is_finite`, `is_straight`, `time_at`, `wronskian`, `posterior`) follows from `alpha`,
    `sigma` and `gamma`. [`flowprop.AffinePath`][] makes a path of two functions, with everything else derived.
    """

    @property
    @abc.abstractmethod
    def target_span(self) -> Span:
        """The times at which a target determines noise and velocity."""

    @property
    @abc.abstractmethod
    def noise_span(self) -> Span:
        """The times at which noise determines target and velocity."""

    @property
    @abc.abstractmethod
    def velocity_span(self) -> Span:
        """The times at which a velocity determines target and noise."""

    @abc.abstractmethod
    def alpha(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The factor of the data."""

    @abc.abstractmethod
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The factor of the noise."""

    @abc.abstractmethod
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR `2 log(alpha / sigma)`."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """`(g, g^2 / (2 sigma))` of the reverse SDE `dz = (v - g^2/(2 sigma) eps) dt + g dW`.

        The SDE has the same marginals as the ODE. The second number is computed without a division.
        """

    @abc.abstractmethod
    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """Target, noise and velocity from an estimated target; finite over `target_span`."""

    @abc.abstractmethod
    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """Target, noise and velocity from estimated noise; finite over `noise_span`."""

    @abc.abstractmethod
    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """Target, noise and velocity from an estimated velocity; finite over `velocity_span`."""

    @property
    def span(self) -> Span:
        """The times at which `alpha`, `sigma` and their derivatives are finite: all that the three spans cover."""
        spans = self.target_span, self.noise_span, self.velocity_span
        return min(start for start, _ in spans), max(end for _, end in spans)

    @property
    def starts_at_source(self) -> bool:
        """Whether `z_0` alone is the path's start: `alpha(0) = 0` and `sigma(0) = 1`.

        Only then the source may be another than a gaussian. It is `False` if it depends on a traced array.
        """
        if self.span[0] > 0:
            return False
        start = known(lambda: jnp.stack([self.alpha(0.0), self.sigma(0.0)]))
        return start is not None and bool(np.allclose(start, (0, 1), rtol=0, atol=1e-6))

    @property
    def snr_is_finite(self) -> bool:
        """Whether some noise is left at the end of `span`, so that the SNR is finite over all of it.

        It is `True` if it depends on a traced array.
        """
        end = known(lambda: self.sigma(self.span[1]))
        return end is None or bool(end > 1e-6)

    @property
    def is_straight(self) -> bool:
        """Whether the path is the straight one, `alpha = t` and `sigma = 1 - t`.

        It is `False` if it depends on a traced array.
        """
        times = np.linspace(*self.span, 9)
        values = known(
            lambda: jnp.stack([function(jnp.asarray(times, float)) for function in (self.alpha, self.sigma)])
        )
        return values is not None and bool(np.allclose(values, (times, 1 - times), rtol=0, atol=1e-6))

    @checked
    def time_at(self, gamma: Float[ArrayLike, ""], span: tuple[Real, Real] = (0.0, 1.0)) -> Scalar:
        """The time within `span` at which the path has the log-SNR `gamma`: the inverse of the method `gamma`.

        By bisection, and by `sigmoid(gamma / 2)` on the straight path.

        **Arguments:**

        - `gamma`: a log-SNR, which may be infinite.
        - `span`: the times to look at, within the path's own `span`.

        **Returns:** a scalar; the nearer end of the span if the path does not have this log-SNR within it.
        """
        gamma = jnp.asarray(gamma, jnp.result_type(gamma, float))
        start, end = (jnp.asarray(t, gamma.dtype) for t in span)
        if self.is_straight:
            return jnp.clip(jax.nn.sigmoid(gamma / 2), start, end)
        return _bisect(self, gamma, start, end)

    def wronskian(self, t: Times) -> Float[Array, "*times"]:
        """`alpha' sigma - alpha sigma' = alpha sigma gamma' / 2`: how fast the SNR rises.

        No coefficient is divided by. It is 1 on the straight path.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        return derivative(self.alpha, t) * sigma - alpha * derivative(self.sigma, t)

    def interpolate(self, t: Time, z0: Point, z1: Point) -> Point:
        """`z_t = alpha z_1 + sigma z_0`."""
        return self.alpha(t) * z1 + self.sigma(t) * z0

    def posterior(self, s: Time, t: Time, stochasticity: Number = 1.0) -> tuple[Scalar, Scalar, Scalar]:
        """`(a, b, sqrt(c))` of a draw `z_t = a z_1 + b z_s + sqrt(c) eps` at a later time t > s.

        It carries the path's marginal given the data from s to t: `b^2 sigma_s^2 + c = sigma_t^2`,
        `a + b alpha_s = alpha_t`. Of the variance of the posterior q(z_t | z_s, z_1), which is
        `sigma_t^2 (1 - SNR_s/SNR_t)`, the noise has the share `stochasticity^2`: at 1 it is a draw from that
        posterior (Ho et al. 2020, eq. 6-7; NoProp, eq. 6), at 0 none (Song, Meng & Ermon 2021, eq. 12).

        **Arguments:**

        - `s`, `t`: times, `s < t`.
        - `stochasticity`: in [0, 1].

        **Returns:** three scalars, finite over all of the path's `span`.
        """
        # By the log-SNR, since the variances would cancel in small steps. It may fall by rounding where a
        # schedule is flat.
        rise = jnp.maximum(self.gamma(t) - self.gamma(s), 0)
        kept = 1 - stochasticity**2 + stochasticity**2 * jnp.exp(-rise)
        b = self.sigma(t) / self.sigma(s) * jnp.sqrt(kept)
        noise_std = stochasticity * self.sigma(t) * jnp.sqrt(-jnp.expm1(-rise))
        return self.alpha(t) - b * self.alpha(s), b, noise_std


@eqx.filter_jit
def _bisect(path: AbstractPath, gamma: Scalar, start: Scalar, end: Scalar) -> Scalar:
    """When, between `start` and `end`, a path has this log-SNR; the nearer of them if it never has."""

    def halve(_: Array, times: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        middle = sum(times) / 2
        above = path.gamma(middle) > gamma
        return jnp.where(above, times[0], middle), jnp.where(above, middle, times[1])

    # As many halvings as a time has digits.
    low, high = jax.lax.fori_loop(0, jnp.finfo(gamma.dtype).nmant + 2, halve, (start, end))
    return jnp.where(high < end, low, end)


class CondOTPath(AbstractPath):
    """The straight path of flow matching: `alpha = t`, `sigma = 1 - t` (Lipman et al. 2023)."""

    target_span: ClassVar[Span] = (0.0, 0.99)
    noise_span: ClassVar[Span] = (0.01, 1.0)
    velocity_span: ClassVar[Span] = (0.0, 1.0)

    @checked
    def alpha(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`t`."""
        return jnp.asarray(t)

    @checked
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`1 - t`."""
        return 1 - jnp.asarray(t)

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`2 log(t / (1 - t))`, infinite at both ends."""
        t = jnp.asarray(t)
        return 2 * (jnp.log(t) - jnp.log1p(-t))

    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """`g^2 = 2 sigma`, so that the drift is `v - eps`."""
        return jnp.sqrt(2 * self.sigma(t)), jnp.ones_like(self.sigma(t))

    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """`v = (u - z) / (1 - t)`."""
        velocity = (target - z) / self.sigma(t)
        return Estimate(target, z - t * velocity, velocity)

    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """`v = (z - eps) / t`."""
        velocity = (z - noise) / t
        return Estimate(z + self.sigma(t) * velocity, noise, velocity)

    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """`u = z + (1 - t) v`, `eps = z - t v`."""
        return Estimate(z + self.sigma(t) * velocity, z - t * velocity, velocity)


class VPPath(AbstractPath):
    """The variance-preserving path: `alpha^2 = sigmoid(gamma)`, `sigma^2 = sigmoid(-gamma)` (Kingma et al. 2021).

    Its spans follow from the schedule when the path is made. If the log-SNR is bounded, targets and noise have all of
    [0, 1]. At an end where it is not, every span stops where the smaller coefficient is 0.01, or 1e-5 away from the
    end. A schedule that is traced counts as bounded.

    **Arguments:**

    - `schedule`: the log-SNR as a function of time.

    **Raises:** `ValueError` if the log-SNR is not finite inside of (0, 1).

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.CosineNoiseSchedule())
    alpha, sigma = path.alpha(0.3), path.sigma(0.3)
    ```
    """

    schedule: AbstractNoiseSchedule
    spans: tuple[Span, Span, Span] = eqx.field(static=True)

    @checked
    def __init__(self, schedule: AbstractNoiseSchedule) -> None:
        self.schedule = schedule
        log_snr = schedule.gamma

        def sizes(t: Array) -> Array:
            alpha, sigma, wronskian = sizes_of(lambda s: _share(log_snr(s)), lambda s: _share(-log_snr(s)), t)
            return jnp.stack([jnp.minimum(alpha, sigma), wronskian])

        (start, end), (first, last) = spans_of(sizes) or ((0.0, 1.0), (0.0, 1.0))
        # A velocity determines the target only while gamma rises, and a bounded schedule may be flat at t = 1, or may
        # become so in training.
        self.spans = (start, end), (start, end), (max(start, first), min(last, 0.99 if end == 1 else end))

    @property
    def target_span(self) -> Span:
        """The times at which a target determines noise and velocity."""
        return self.spans[0]

    @property
    def noise_span(self) -> Span:
        """The times at which noise determines target and velocity."""
        return self.spans[1]

    @property
    def velocity_span(self) -> Span:
        """The times at which a velocity determines target and noise."""
        return self.spans[2]

    @checked
    def alpha(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`sqrt(sigmoid(gamma))`."""
        return _share(self.gamma(t))

    @checked
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`sqrt(sigmoid(-gamma))`."""
        return _share(-self.gamma(t))

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The schedule's log-SNR."""
        return self.schedule.gamma(t)

    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """`g^2 = gamma' sigma^2`, so that the drift is `gamma' (alpha u - (1 + alpha^2)/2 z)`."""
        # Rounding makes a flat schedule's slope -7e-6, whose root is NaN.
        slope, sigma = jnp.maximum(derivative(self.gamma, t), 0), self.sigma(t)
        return jnp.sqrt(slope) * sigma, slope * sigma / 2

    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """`v = gamma'/2 alpha (u - alpha z)`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        velocity = derivative(self.gamma, t) / 2 * alpha * (target - alpha * z)
        return Estimate(target, (z - alpha * target) / sigma, velocity)

    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """`v = gamma'/2 sigma (sigma z - eps)`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        velocity = derivative(self.gamma, t) / 2 * sigma * (sigma * z - noise)
        return Estimate((z - sigma * noise) / alpha, noise, velocity)

    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """The two forms above, solved for `u` and `eps`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        rate = 2 * velocity / derivative(self.gamma, t)
        return Estimate(alpha * z + rate / alpha, sigma * z - rate / sigma, velocity)
