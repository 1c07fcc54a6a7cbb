"""Noise schedules whose log-SNR is infinite at an end."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._types import Real, check_number, checked
from .schedule import AbstractNoiseSchedule


@checked
class CauchyNoiseSchedule(AbstractNoiseSchedule):
    """`gamma = mean + scale tan(pi (t - 1/2))`: for a uniform time the log-SNR has a Cauchy distribution.

    ([Hang et al. 2024](https://arxiv.org/abs/2407.03297), table 1.) The log-SNR is infinite at both ends. With the
    default arguments the path's spans are [0.035, 0.965], between log-SNRs of -9.2 and 9.2.

    **Arguments:**

    - `mean`: the log-SNR at t = 1/2. By default 0.
    - `scale`: half of the log-SNRs are within `scale` of `mean`; positive. By default 1.

    **Raises:** `ValueError` if `mean` is not finite or `scale` is not positive.

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.CauchyNoiseSchedule())
    print(path.span)  # (0.035, 0.965)
    ```
    """

    mean: Real = 0.0
    scale: Real = 1.0

    def __check_init__(self) -> None:
        _check_location(self.mean, self.scale)

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return self.mean + self.scale * jnp.tan(jnp.pi * (jnp.asarray(t) - 0.5))


@checked
class LaplaceNoiseSchedule(AbstractNoiseSchedule):
    """`gamma = mean -+ scale log(1 - |2t - 1|)`: for a uniform time the log-SNR has a Laplace distribution.

    The sign is that of `t - 1/2` ([Hang et al. 2024](https://arxiv.org/abs/2407.03297), table 1). The log-SNR is
    infinite at both ends. It rises so late that the spans of [`flowprop.VPPath`][] stop 1e-5 before the ends, at
    `mean -+ 10.8 scale`, or where the smaller coefficient is 0.01. With the default scale, noise with a standard
    deviation of 0.07 is then left on the data; `sample` removes it by one evaluation of the target. Another path may be
    easier for a solver: use [`flowprop.change_path`][] to integrate a trained flow along it.

    **Arguments:**

    - `mean`: the log-SNR at t = 1/2. By default 0.
    - `scale`: the mean distance of the log-SNR from `mean`; positive. By default 0.5.

    **Raises:** `ValueError` if `mean` is not finite or `scale` is not positive.

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.LaplaceNoiseSchedule(scale=0.5))
    print(path.span)  # (1e-05, 0.99999)
    print(round(float(path.sigma(path.span[1])), 2))  # 0.07
    ```
    """

    mean: Real = 0.0
    scale: Real = 0.5

    def __check_init__(self) -> None:
        _check_location(self.mean, self.scale)

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        t = jnp.asarray(t)
        # Each logarithm is limited to its own half of the times: in the other half its argument is above 1.
        return self.mean + self.scale * jnp.where(
            t < 0.5, jnp.log(2 * jnp.minimum(t, 0.5)), -jnp.log(2 * jnp.minimum(1 - t, 0.5))
        )


@checked
class ExponentialNoiseSchedule(AbstractNoiseSchedule):
    """`alpha = exp(-rate (1 - t))`: the signal decays exponentially, `gamma = -log(exp(2 rate (1 - t)) - 1)`.

    This is the variance-preserving process of [Song et al. 2021](https://arxiv.org/abs/2011.13456) (eq. 11) with the
    constant rate `beta = 2 rate`, the Ornstein-Uhlenbeck process. The log-SNR is infinite at t = 1. With the default
    rate the path's spans end at 0.99999.

    **Arguments:**

    - `rate`: positive; `alpha(0) = exp(-rate)` is what is left of the data at the start. By default 5.

    **Raises:** `ValueError` if `rate` is not positive.

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.ExponentialNoiseSchedule(5.0))
    print(path.span)  # (0.0, 0.99999)
    print(round(float(path.alpha(0.0)), 4))  # 0.0067
    ```
    """

    rate: Real = 5.0

    def __check_init__(self) -> None:
        check_number("rate", self.rate, above=0, remedy="the data decay only for a positive rate")

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _log_snr_of_decay(2 * self.rate * (1 - jnp.asarray(t)))


@checked
class QuadraticNoiseSchedule(AbstractNoiseSchedule):
    """`alpha^2 = exp(-int_0^{1-t} beta)`, with a rate of noise that is quadratic in time.

    `beta(s) = (sqrt(beta_min) + s (sqrt(beta_max) - sqrt(beta_min)))^2` at the time `s = 1 - t`, counted from the data.
    It is the "quadratic" (also "scaled linear") schedule of [Song, Meng & Ermon 2021](https://arxiv.org/abs/2010.02502)
    in continuous time, where their betas are multiplied by the number of steps. The log-SNR is infinite at t = 1. With
    the default rates the path's spans end at 0.999.

    **Arguments:**

    - `beta_min`: the rate at t = 1, the data; positive. By default 0.1.
    - `beta_max`: the rate at t = 0, the noise; above `beta_min`. By default 20.

    **Raises:** `ValueError` unless `0 < beta_min < beta_max`.

    ```python
    import flowprop as fp

    path = fp.VPPath(fp.QuadraticNoiseSchedule(0.85, 12.0))
    print(round(float(path.alpha(0.0)), 3))  # 0.069
    ```
    """

    beta_min: Real = 0.1
    beta_max: Real = 20.0

    def __check_init__(self) -> None:
        check_number("beta_min", self.beta_min, above=0, remedy="give a positive rate, such as 0.1")
        check_number("beta_max", self.beta_max, above=self.beta_min, remedy="give a rate above `beta_min`, such as 20")

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        low, s = self.beta_min**0.5, 1 - jnp.asarray(t)
        rise = (self.beta_max**0.5 - low) * s
        # The integral of (low + rise s)^2, without the difference of two cubes.
        return _log_snr_of_decay(s * (low**2 + low * rise + rise**2 / 3))


def _check_location(mean: Real, scale: Real) -> None:
    check_number("mean", mean, remedy="give the log-SNR at t = 1/2, a finite number")
    check_number("scale", scale, above=0, remedy="the log-SNR rises with t only for a positive scale")


def _log_snr_of_decay(exponent: Array) -> Array:
    """The log-SNR if `alpha^2 = exp(-exponent)`."""
    return -exponent - jnp.log(-jnp.expm1(-exponent))
