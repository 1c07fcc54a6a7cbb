"""The variance-preserving path of diffusion models."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._types import Point, Scalar, Time, checked
from .path import AbstractPath, Estimate
from .schedule import AbstractNoiseSchedule
from .span import Span, derivative, sizes_of, spans_of


class VPPath(AbstractPath):
    """The variance-preserving path of diffusion models: `alpha^2 + sigma^2 = 1`.

    `alpha^2 = sigmoid(gamma)` and `sigma^2 = sigmoid(-gamma)` ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630),
    section 3.2, whose gamma has the opposite sign). Papers often write `alpha^2` as alpha-bar. With the target `u`, the
    noise `eps` and the velocity `v`,

    - from a target: `v = gamma'/2 alpha (u - alpha z)`, `eps = (z - alpha u) / sigma`;
    - from noise: `v = gamma'/2 sigma (sigma z - eps)`, `u = (z - sigma eps) / alpha`;
    - from a velocity: the two forms of `v` solved for `u` and `eps`.

    The spans follow from the schedule when the path is made. If the log-SNR is bounded, targets and noise can be used
    on all of [0, 1]. At an end where the log-SNR is infinite, every span stops where the smaller coefficient is 0.01,
    or 1e-5 before the end. A velocity determines the target only where gamma rises. A bounded schedule may be flat at t
    = 1, so there the span of velocities ends at 0.99. A schedule that is traced counts as bounded.

    **Arguments:**

    - `schedule`: the log-SNR as a function of time.

    **Raises:** `ValueError` if the log-SNR is not finite inside (0, 1).

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.CosineNoiseSchedule())
    print(round(float(path.alpha(0.0)), 4))  # 0.1
    print(round(float(path.alpha(0.3) ** 2 + path.sigma(0.3) ** 2), 4))  # 1.0
    print(path.target_span, path.velocity_span)  # (0.0, 1.0) (0.0, 0.99)
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
        # A velocity determines the target only where gamma rises. A bounded schedule may be flat at t = 1, or may
        # become flat there in training.
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
        """`sqrt(sigmoid(gamma))`, the factor of the data.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _share(self.gamma(t))

    @checked
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`sqrt(sigmoid(-gamma))`, the factor of the noise.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _share(-self.gamma(t))

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR of the schedule.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return self.schedule.gamma(t)

    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """The diffusion of the reverse SDE: `g^2 = gamma' sigma^2`, so that the drift is
        `gamma' (alpha u - (1 + alpha^2)/2 z)`.

        **Arguments:**

        - `t`: a time.

        **Returns:** two scalars, `g` and `g^2 / (2 sigma)`.
        """
        # Rounding makes a flat schedule's slope -7e-6, whose root is NaN.
        slope, sigma = jnp.maximum(derivative(self.gamma, t), 0), self.sigma(t)
        return jnp.sqrt(slope) * sigma, slope * sigma / 2

    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """Target, noise and velocity from an estimated target: `v = gamma'/2 alpha (u - alpha z)`.

        **Arguments:**

        - `t`: a time in `target_span`.
        - `z`: one point on the path, `(*shape)`.
        - `target`: the estimate of `E[z_1 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        velocity = derivative(self.gamma, t) / 2 * alpha * (target - alpha * z)
        return Estimate(target, (z - alpha * target) / sigma, velocity)

    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """Target, noise and velocity from estimated noise: `v = gamma'/2 sigma (sigma z - eps)`.

        **Arguments:**

        - `t`: a time in `noise_span`.
        - `z`: one point on the path, `(*shape)`.
        - `noise`: the estimate of `E[z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        velocity = derivative(self.gamma, t) / 2 * sigma * (sigma * z - noise)
        return Estimate((z - sigma * noise) / alpha, noise, velocity)

    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """Target, noise and velocity from an estimated velocity: `u = alpha z + 2 v / (gamma' alpha)`.

        The noise is `eps = sigma z - 2 v / (gamma' sigma)`.

        **Arguments:**

        - `t`: a time in `velocity_span`.
        - `z`: one point on the path, `(*shape)`.
        - `velocity`: the estimate of `E[alpha' z_1 + sigma' z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        rate = 2 * velocity / derivative(self.gamma, t)
        return Estimate(alpha * z + rate / alpha, sigma * z - rate / sigma, velocity)


def _share(gamma: Array) -> Array:
    """`sqrt(sigmoid(gamma))`."""
    return jnp.exp(0.5 * jax.nn.log_sigmoid(gamma))
