"""The straight path of flow matching."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._types import Point, Scalar, Time, checked
from .path import AbstractPath, Estimate
from .span import Span


class CondOTPath(AbstractPath):
    """The straight path of flow matching, `z_t = t z_1 + (1 - t) z_0`.

    `alpha = t` and `sigma = 1 - t` ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747), eq. 20-22 with
    `sigma_min = 0`). Other names: linear interpolant, rectified-flow path, conditional optimal-transport path. With the
    target `u`, the noise `eps` and the velocity `v`,

    - `v = (u - z) / (1 - t) = (z - eps) / t`,
    - `u = z + (1 - t) v`,
    - `eps = z - t v`.

    So a velocity can be used at all times, a target until t = 0.99 and noise from t = 0.01 on.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    path = fp.CondOTPath()
    print(path.interpolate(0.25, jnp.zeros(2), jnp.ones(2)))  # [0.25 0.25]
    print(path.velocity_span, path.target_span)  # (0.0, 1.0) (0.0, 0.99)
    ```
    """

    target_span: ClassVar[Span] = (0.0, 0.99)
    noise_span: ClassVar[Span] = (0.01, 1.0)
    velocity_span: ClassVar[Span] = (0.0, 1.0)

    @checked
    def alpha(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`t`, the factor of the data.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return jnp.asarray(t)

    @checked
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """`1 - t`, the factor of the noise.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return 1 - jnp.asarray(t)

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR `2 log(t / (1 - t))`, infinite at both ends.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        t = jnp.asarray(t)
        return 2 * (jnp.log(t) - jnp.log1p(-t))

    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """The diffusion of the reverse SDE: `g^2 = 2 sigma`, so that the drift is `v - eps`.

        **Arguments:**

        - `t`: a time.

        **Returns:** two scalars, `g` and `g^2 / (2 sigma)`.
        """
        return jnp.sqrt(2 * self.sigma(t)), jnp.ones_like(self.sigma(t))

    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """Target, noise and velocity from an estimated target: `v = (u - z) / (1 - t)`.

        **Arguments:**

        - `t`: a time in `target_span`.
        - `z`: one point on the path, `(*shape)`.
        - `target`: the estimate of `E[z_1 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        velocity = (target - z) / self.sigma(t)
        return Estimate(target, z - t * velocity, velocity)

    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """Target, noise and velocity from estimated noise: `v = (z - eps) / t`.

        **Arguments:**

        - `t`: a time in `noise_span`.
        - `z`: one point on the path, `(*shape)`.
        - `noise`: the estimate of `E[z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        velocity = (z - noise) / t
        return Estimate(z + self.sigma(t) * velocity, noise, velocity)

    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """Target, noise and velocity from an estimated velocity: `u = z + (1 - t) v`, `eps = z - t v`.

        **Arguments:**

        - `t`: a time in [0, 1].
        - `z`: one point on the path, `(*shape)`.
        - `velocity`: the estimate of `E[z_1 - z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        return Estimate(z + self.sigma(t) * velocity, z - t * velocity, velocity)
