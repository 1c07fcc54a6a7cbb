"""What a path from noise to data is: `z_t = alpha(t) z_1 + sigma(t) z_0`.

A path has its coefficients, and converts between the three quantities that a network may estimate: the target
`E[z_1 | z_t]`, the noise `E[z_0 | z_t]`, and the velocity of the probability-flow ODE. By definition
`z = alpha u + sigma eps` and `v = alpha' u + sigma' eps`. Each path uses forms of these equations in which no digits
cancel and nothing is divided by a number that vanishes.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._types import Number, Point, Real, Scalar, Time, Times, checked
from .span import Span, derivative, known


class Estimate(NamedTuple):
    """The same estimate at one point of the path, in three forms. Each form determines the two others.

    **Arguments:**

    - `target`: `u`, the estimate of `E[z_1 | z_t]`, of the shape of one example. Usual names: x0-prediction
      (x1-prediction where data are at t = 1), denoiser output.
    - `noise`: `eps`, the estimate of `E[z_0 | z_t]`, of the same shape. Usual name: epsilon.
    - `velocity`: `v = alpha' u + sigma' eps`, of the same shape: the right-hand side of the probability-flow ODE.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    estimate = fp.CondOTPath().from_velocity(0.5, jnp.zeros(2), jnp.ones(2))
    print(estimate.target)  # [0.5 0.5]
    print(estimate.noise)  # [-0.5 -0.5]
    ```
    """

    target: Point
    noise: Point
    velocity: Point


class AbstractPath(eqx.Module):
    """The coefficients of a Gaussian path (interpolant, forward process) `z_t = alpha z_1 + sigma z_0`.

    The signal-to-noise ratio `alpha^2 / sigma^2` rises on [0, 1]. An estimate of one kind determines the two others
    over a *span* (an interval) of times: `target_span`, `noise_span` and `velocity_span`. Together they cover `span`.

    A path of your own defines the three spans and all abstract methods. The other properties and methods
    (`starts_at_source`, `snr_is_finite`, `is_straight`, `time_at`, `wronskian`, `posterior`) follow from `alpha`,
    `sigma` and `gamma`. [`flowprop.AffinePath`][] makes a path from two functions and derives everything else.
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
        """The factor of the data.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """

    @abc.abstractmethod
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The factor of the noise.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """

    @abc.abstractmethod
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR `2 log(alpha / sigma)`.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """

    @abc.abstractmethod
    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """`(g, g^2 / (2 sigma))` of the reverse SDE `dz = (v - g^2/(2 sigma) eps) dt + g dW`.

        The SDE has the same marginals as the ODE ([Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 6 and
        appendix D). The second number is computed without a division.

        **Arguments:**

        - `t`: a time.

        **Returns:** two scalars, `g` and `g^2 / (2 sigma)`.
        """

    @abc.abstractmethod
    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """Target, noise and velocity from an estimated target; finite over `target_span`.

        **Arguments:**

        - `t`: a time in `target_span`.
        - `z`: one point on the path, `(*shape)`.
        - `target`: the estimate of `E[z_1 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """

    @abc.abstractmethod
    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """Target, noise and velocity from estimated noise; finite over `noise_span`.

        **Arguments:**

        - `t`: a time in `noise_span`.
        - `z`: one point on the path, `(*shape)`.
        - `noise`: the estimate of `E[z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """

    @abc.abstractmethod
    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """Target, noise and velocity from an estimated velocity; finite over `velocity_span`.

        **Arguments:**

        - `t`: a time in `velocity_span`.
        - `z`: one point on the path, `(*shape)`.
        - `velocity`: the estimate of `E[alpha' z_1 + sigma' z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """

    @property
    def span(self) -> Span:
        """The times at which `alpha`, `sigma` and their derivatives are finite: the union of the three spans."""
        spans = self.target_span, self.noise_span, self.velocity_span
        return min(start for start, _ in spans), max(end for _, end in spans)

    @property
    def starts_at_source(self) -> bool:
        """Whether the path starts with `z_0` alone: `alpha(0) = 0` and `sigma(0) = 1`.

        Only such a path can have a source (base distribution) other than a Gaussian. The value is `False` if it depends
        on a traced array.
        """
        if self.span[0] > 0:
            return False
        start = known(lambda: jnp.stack([self.alpha(0.0), self.sigma(0.0)]))
        return start is not None and bool(np.allclose(start, (0, 1), rtol=0, atol=1e-6))

    @property
    def snr_is_finite(self) -> bool:
        """Whether some noise is left at the end of `span`, so that the SNR is finite at all times of it.

        The value is `True` if it depends on a traced array.
        """
        end = known(lambda: self.sigma(self.span[1]))
        return end is None or bool(end > 1e-6)

    @property
    def is_straight(self) -> bool:
        """Whether the path is the straight one, `alpha = t` and `sigma = 1 - t`.

        The value is `False` if it depends on a traced array.
        """
        times = np.linspace(*self.span, 9)
        values = known(
            lambda: jnp.stack([function(jnp.asarray(times, float)) for function in (self.alpha, self.sigma)])
        )
        return values is not None and bool(np.allclose(values, (times, 1 - times), rtol=0, atol=1e-6))

    @checked
    def time_at(self, gamma: Float[ArrayLike, ""], span: tuple[Real, Real] = (0.0, 1.0)) -> Scalar:
        """The time within `span` at which the path has the log-SNR `gamma`: the inverse of the method `gamma`.

        It is found by bisection. On the straight path it is `sigmoid(gamma / 2)`.

        **Arguments:**

        - `gamma`: a log-SNR, which may be infinite.
        - `span`: the times to search, within the path's own `span`. By default [0, 1].

        **Returns:** a scalar. If the path does not have this log-SNR within the span, it is the nearer end of the span.
        """
        gamma = jnp.asarray(gamma, jnp.result_type(gamma, float))
        start, end = (jnp.asarray(t, gamma.dtype) for t in span)
        if self.is_straight:
            return jnp.clip(jax.nn.sigmoid(gamma / 2), start, end)
        return _bisect(self, gamma, start, end)

    def wronskian(self, t: Times) -> Float[Array, "*times"]:
        """`w = alpha' sigma - alpha sigma' = alpha sigma gamma' / 2`: the speed at which the SNR rises.

        It is computed without a division. On the straight path it is 1.

        **Arguments:**

        - `t`: one time in `span`, or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        return derivative(self.alpha, t) * sigma - alpha * derivative(self.sigma, t)

    def interpolate(self, t: Time, z0: Point, z1: Point) -> Point:
        """The point of the path between noise and data, `z_t = alpha z_1 + sigma z_0`.

        **Arguments:**

        - `t`: a time.
        - `z0`: noise, one example, `(*shape)`.
        - `z1`: data, one example, `(*shape)`.

        **Returns:** `z_t`, `(*shape)`.
        """
        return self.alpha(t) * z1 + self.sigma(t) * z0

    def posterior(self, s: Time, t: Time, stochasticity: Number = 1.0) -> tuple[Scalar, Scalar, Scalar]:
        """`(a, b, sqrt(c))` of a draw `z_t = a z_1 + b z_s + sqrt(c) eps` at a later time t > s.

        The draw takes the marginal of the path, given the data, from s to t: `b^2 sigma_s^2 + c = sigma_t^2` and
        `a + b alpha_s = alpha_t`. The posterior q(z_t | z_s, z_1) has the variance `sigma_t^2 (1 - SNR_s/SNR_t)`, and
        `c` is this variance times `stochasticity^2`. With stochasticity 1 the step is a draw from the posterior, the
        step of DDPM ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 6-7;
        [NoProp](https://arxiv.org/abs/2503.24322), eq. 6). With 0 it adds no noise, the step of DDIM ([Song, Meng &
        Ermon 2021](https://arxiv.org/abs/2010.02502), eq. 12).

        **Arguments:**

        - `s`: the earlier time.
        - `t`: the later time, `t > s`.
        - `stochasticity`: in [0, 1]. By default 1. (It is eta of DDIM.)

        **Returns:** three scalars, finite at all times of the path's `span`.
        """
        # Computed from the log-SNR, because the difference of the variances loses its digits in small steps. Where a
        # schedule is flat, the log-SNR may fall by rounding.
        rise = jnp.maximum(self.gamma(t) - self.gamma(s), 0)
        kept = 1 - stochasticity**2 + stochasticity**2 * jnp.exp(-rise)
        b = self.sigma(t) / self.sigma(s) * jnp.sqrt(kept)
        noise_std = stochasticity * self.sigma(t) * jnp.sqrt(-jnp.expm1(-rise))
        return self.alpha(t) - b * self.alpha(s), b, noise_std


@eqx.filter_jit
def _bisect(path: AbstractPath, gamma: Scalar, start: Scalar, end: Scalar) -> Scalar:
    """The time between `start` and `end` at which a path has this log-SNR, or the nearer end if there is none."""

    def halve(_: Array, times: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        middle = sum(times) / 2
        above = path.gamma(middle) > gamma
        return jnp.where(above, times[0], middle), jnp.where(above, middle, times[1])

    # As many halvings as a time has binary digits.
    low, high = jax.lax.fori_loop(0, jnp.finfo(gamma.dtype).nmant + 2, halve, (start, end))
    return jnp.where(high < end, low, end)
