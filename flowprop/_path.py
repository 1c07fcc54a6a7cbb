"""Gaussian paths from noise to data, `z_t = alpha(t) z_1 + sigma(t) z_0`.

A path knows its coefficients and how the three things that a network may estimate follow from
one another: the target `E[z_1 | z_t]`, the noise `E[z_0 | z_t]`, and the velocity of the
probability-flow ODE. By definition `z = alpha u + sigma eps` and `v = alpha' u + sigma' eps`; each
path supplies the forms of these in which nothing cancels or is divided by a vanishing number.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._schedule import AbstractNoiseSchedule
from ._types import Point, Real, Scalar, Time, checked


class Estimate(NamedTuple):
    """What is known of a point on the path: three views of one estimate."""

    target: Point
    noise: Point
    velocity: Point


def derivative(function: Callable[[Array], Array], t: ArrayLike) -> Array:
    """The derivative of a scalar function of time, element by element."""
    t = jnp.asarray(t, jnp.result_type(t, float))
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


class AbstractPath(eqx.Module):
    """The coefficients of a Gaussian path, `alpha` rising and `sigma` falling on [0, 1].

    Where an estimate of one kind determines the others without loss is a *span* of times:
    `target_span`, `noise_span` and `velocity_span`.
    """

    target_span: eqx.AbstractClassVar[tuple[float, float]]
    noise_span: eqx.AbstractClassVar[tuple[float, float]]
    velocity_span: eqx.AbstractClassVar[tuple[float, float]]

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
        """`(g, g^2 / (2 sigma))` of the reverse SDE `dz = (v - g^2/(2 sigma) eps) dt + g dW`,
        which has the same marginals as the ODE; the second without a division."""

    @abc.abstractmethod
    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """All views of an estimated target; finite over `target_span`."""

    @abc.abstractmethod
    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """All views of estimated noise; finite over `noise_span`."""

    @abc.abstractmethod
    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """All views of an estimated velocity; finite over `velocity_span`."""

    def interpolate(self, t: Time, z0: Point, z1: Point) -> Point:
        """`z_t = alpha z_1 + sigma z_0`."""
        return self.alpha(t) * z1 + self.sigma(t) * z0

    def posterior(self, s: Time, t: Time, stochasticity: Real = 1.0) -> tuple[Scalar, Scalar, Scalar]:
        """`(a, b, sqrt(c))` of a draw `z_t = a z_1 + b z_s + sqrt(c) eps` at a later time t > s.

        It carries the path's marginal given the data from s to t: `b^2 sigma_s^2 + c = sigma_t^2`,
        `a + b alpha_s = alpha_t`. Of the variance of the posterior q(z_t | z_s, z_1), which is
        `sigma_t^2 (1 - SNR_s/SNR_t)`, the noise has the share `stochasticity^2`: at 1 it is a draw from that
        posterior (Ho et al. 2020, eq. 6-7; NoProp, eq. 6), at 0 none (Song, Meng & Ermon 2021, eq. 12).

        **Arguments:**

        - `s`, `t`: times, `s < t`.
        - `stochasticity`: in [0, 1].

        **Returns:** three scalars, finite on all of [0, 1].
        """
        # By the log-SNR, since the variances would cancel in small steps. It may fall by rounding where a
        # schedule is flat.
        rise = jnp.maximum(self.gamma(t) - self.gamma(s), 0)
        kept = 1 - stochasticity**2 + stochasticity**2 * jnp.exp(-rise)
        b = self.sigma(t) / self.sigma(s) * jnp.sqrt(kept)
        noise_std = stochasticity * self.sigma(t) * jnp.sqrt(-jnp.expm1(-rise))
        return self.alpha(t) - b * self.alpha(s), b, noise_std


class CondOTPath(AbstractPath):
    """The straight path of flow matching: `alpha = t`, `sigma = 1 - t` (Lipman et al. 2023)."""

    target_span: ClassVar[tuple[float, float]] = (0.0, 0.99)
    noise_span: ClassVar[tuple[float, float]] = (0.01, 1.0)
    velocity_span: ClassVar[tuple[float, float]] = (0.0, 1.0)

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


@checked
class VPPath(AbstractPath):
    """The variance-preserving path: `alpha^2 = sigmoid(gamma)`, `sigma^2 = sigmoid(-gamma)`.

    **Arguments:**

    - `schedule`: the log-SNR as a function of time.
    """

    schedule: AbstractNoiseSchedule

    target_span: ClassVar[tuple[float, float]] = (0.0, 1.0)
    noise_span: ClassVar[tuple[float, float]] = (0.0, 1.0)
    # A velocity determines the target only while gamma rises; the cosine schedule is flat at t = 1.
    velocity_span: ClassVar[tuple[float, float]] = (0.0, 0.99)

    @checked
    def alpha(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`sqrt(sigmoid(gamma))`."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(self.gamma(t)))

    @checked
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`sqrt(sigmoid(-gamma))`."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.gamma(t)))

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
