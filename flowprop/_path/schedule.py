"""Noise schedules: the log-SNR gamma(t) of a variance-preserving path, rising from noise to data.

Papers often give `alpha^2 = sigmoid(gamma)` instead, and call it alpha-bar. A schedule is one function, `gamma`.
Everything else follows from it.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._types import Real, check_number, checked


class AbstractNoiseSchedule(eqx.Module):
    """The log signal-to-noise ratio as a rising function of time on [0, 1].

    It may be infinite at an end: then the spans of [`flowprop.VPPath`][] stop before that end. A schedule of your own
    defines `gamma`, for a scalar or an array of times.
    """

    @abc.abstractmethod
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR `log(alpha^2 / sigma^2)`, element by element; differentiable in `t`.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """


def _logit(share: Array) -> Array:
    return jnp.log(share) - jnp.log1p(-share)


class LinearNoiseSchedule(AbstractNoiseSchedule):
    """`alpha^2 = 0.01 + 0.98 t`: the log-SNR rises from -4.6 to 4.6.

    ```python
    import flowprop as fp

    schedule = fp.LinearNoiseSchedule()
    print(round(float(schedule.gamma(0.0)), 2), round(float(schedule.gamma(0.75)), 2))  # -4.6 1.07
    path = fp.VPPath(schedule)
    ```
    """

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _logit(0.01 + 0.98 * jnp.asarray(t))


class CosineNoiseSchedule(AbstractNoiseSchedule):
    """`alpha^2 = 0.01 + 0.98 sin(pi t / 2)`: the log-SNR rises from -4.6 to 4.6, and is flat at t = 1.

    ```python
    import flowprop as fp

    schedule = fp.CosineNoiseSchedule()
    print(round(float(schedule.gamma(0.0)), 2), round(float(schedule.gamma(0.75)), 2))  # -4.6 2.38
    path = fp.VPPath(schedule)
    ```
    """

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _logit(0.01 + 0.98 * jnp.sin(jnp.pi / 2 * jnp.asarray(t)))


@checked
class SigmoidNoiseSchedule(AbstractNoiseSchedule):
    """`gamma = scale (t - 1/2)`: a log-SNR that is linear in time, so that `alpha^2` is a sigmoid of time.

    The scale determines how much noise is left on the data, `sigma^2(1) = sigmoid(-scale / 2)`. On two moons with noise
    0.1 this noise costs 0.073 nats of mean log-likelihood at scale 10, 0.019 at 12 and 0.005 at 14, even with a perfect
    network.

    **Arguments:**

    - `scale`: `gamma(1) - gamma(0)`, the range of the log-SNR; positive. By default 13.

    **Raises:** `ValueError` if `scale` is not positive.

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.SigmoidNoiseSchedule(12.0))
    print(path.gamma(1.0))  # 6.0
    print(round(float(path.sigma(1.0)), 4))  # 0.0497
    ```
    """

    scale: Real = 13.0

    def __check_init__(self) -> None:
        check_number("scale", self.scale, above=0, remedy="the log-SNR rises with t only for a positive scale")

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return self.scale * (jnp.asarray(t) - 0.5)
