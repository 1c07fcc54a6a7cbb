"""Paths made from two functions of time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._types import Point, Real, Scalar, Time, check_number, checked
from .path import AbstractPath, Estimate
from .span import Span, derivative, known, sizes_of, spans_of


Coefficient = Callable[[Any], Any]


class AffinePath(AbstractPath):
    """A path made from two functions of time, `z_t = alpha(t) z_1 + sigma(t) z_0`; everything else is derived.

    Let `w = alpha' sigma - alpha sigma'`, with derivatives by `jax.jvp`. The conversions between target `u`, noise
    `eps` and velocity `v` are

    - from a target: `eps = (z - alpha u) / sigma`, `v = alpha' u + sigma' eps`;
    - from noise: `u = (z - sigma eps) / alpha`, `v` as above;
    - from a velocity: `u = (sigma v - sigma' z) / w`, `eps = (alpha' z - alpha v) / w`.

    The divisor of each conversion, `sigma`, `alpha` or `w`, decides its span. A span includes an end of [0, 1] if the
    divisor is above 1e-6 there and all coefficients are finite. Otherwise it stops where the divisor is 0.01, at most
    1e-5 from the end. The reverse SDE has `g^2 = 2 w sigma`: the SDE of a variance-exploding path if `alpha = 1`, and
    `g^2 = 2 sigma` on the straight path ([Ma et al. 2024](https://arxiv.org/abs/2401.08740)).

    The flow starts from `N(0, (alpha^2 + sigma^2) I)` at the start of its span. This is exact if `alpha(0) = 0` and
    `sigma(0) = 1`. Otherwise it is a good approximation if `sigma` is much larger there than `alpha` times the data.

    **Arguments:**

    - `alpha`: the factor of the data, a function from a scalar time to a scalar. It may be an `equinox.Module`.
    - `sigma`: the factor of the noise, a function of the same kind. `alpha / sigma` has to rise with time, from noise
      at 0 to data at 1.
    - `span`: the times to use, for every prediction. By default they follow from the functions. `span` is needed if the
      functions depend on an array that is traced by `jax.jit` or `jax.vmap` when the path is made.

    **Raises:** `ValueError` if `alpha / sigma` does not rise, if a function does not return a scalar, or if `span` is
    missing and the functions are traced.

    ```python
    import flowprop as fp

    path = fp.AffinePath(lambda t: t**2, lambda t: 1 - t)
    print(path.target_span)  # (0.0, 0.99)
    print(path.wronskian(0.5))  # 0.75
    ```
    """

    signal: Coefficient
    noise: Coefficient
    spans: tuple[Span, ...] = eqx.field(static=True)

    @checked
    def __init__(self, alpha: Coefficient, sigma: Coefficient, *, span: tuple[Real, Real] | None = None) -> None:
        self.signal = alpha
        self.noise = sigma
        if span is not None:
            if not 0 <= span[0] < span[1] <= 1:
                raise ValueError(f"`span` is {span}: give two times in [0, 1], the earlier one first")
            self.spans = ((float(span[0]), float(span[1])),) * 3
            return

        def sizes(t: Array) -> Array:
            alpha, sigma, wronskian = sizes_of(lambda s: _along(self.signal, s), lambda s: _along(self.noise, s), t)
            return jnp.stack([sigma, alpha, wronskian])

        inside = known(lambda: sizes(jnp.linspace(0.1, 0.9, 9)))
        if inside is None:
            raise ValueError(
                "`span` is None, but `alpha` or `sigma` depends on a traced array: give the span's two times"
            )
        if not (inside >= -1e-6).all():
            raise ValueError(
                "`alpha` and `sigma` do not make a path: both have to be finite and positive inside of (0, 1), "
                "and alpha / sigma has to rise with t, from noise at t = 0 to data at t = 1"
            )
        spans = spans_of(sizes)
        assert spans is not None
        self.spans = spans

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
        """The factor of the data.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _along(self.signal, t)

    @checked
    def sigma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The factor of the noise.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return _along(self.noise, t)

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR `2 log(alpha / sigma)`, infinite at an end where one of the two is 0.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        # Rounding may make a coefficient negative that is 0 in exact arithmetic.
        return 2 * (jnp.log(jnp.maximum(alpha, 0)) - jnp.log(jnp.maximum(sigma, 0)))

    def diffusion(self, t: Time) -> tuple[Scalar, Scalar]:
        """The diffusion of the reverse SDE: `g^2 = 2 w sigma`, so that the drift is `v - w eps`.

        **Arguments:**

        - `t`: a time.

        **Returns:** two scalars, `g` and `g^2 / (2 sigma)`.
        """
        wronskian = jnp.maximum(self.wronskian(t), 0)
        return jnp.sqrt(2 * wronskian * jnp.maximum(self.sigma(t), 0)), wronskian

    def from_target(self, t: Time, z: Point, target: Point) -> Estimate:
        """Target, noise and velocity from an estimated target: `eps = (z - alpha u) / sigma`.

        **Arguments:**

        - `t`: a time in `target_span`.
        - `z`: one point on the path, `(*shape)`.
        - `target`: the estimate of `E[z_1 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        return self._estimate(t, target, (z - self.alpha(t) * target) / self.sigma(t))

    def from_noise(self, t: Time, z: Point, noise: Point) -> Estimate:
        """Target, noise and velocity from estimated noise: `u = (z - sigma eps) / alpha`.

        **Arguments:**

        - `t`: a time in `noise_span`.
        - `z`: one point on the path, `(*shape)`.
        - `noise`: the estimate of `E[z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        return self._estimate(t, (z - self.sigma(t) * noise) / self.alpha(t), noise)

    def from_velocity(self, t: Time, z: Point, velocity: Point) -> Estimate:
        """Target, noise and velocity from an estimated velocity.

        `u = (sigma v - sigma' z) / w` and `eps = (alpha' z - alpha v) / w`.

        **Arguments:**

        - `t`: a time in `velocity_span`.
        - `z`: one point on the path, `(*shape)`.
        - `velocity`: the estimate of `E[alpha' z_1 + sigma' z_0 | z_t = z]`, `(*shape)`.

        **Returns:** a [`flowprop.Estimate`][].
        """
        alpha, sigma, wronskian = self.alpha(t), self.sigma(t), self.wronskian(t)
        target = (sigma * velocity - derivative(self.sigma, t) * z) / wronskian
        return Estimate(target, (derivative(self.alpha, t) * z - alpha * velocity) / wronskian, velocity)

    def _estimate(self, t: Time, target: Point, noise: Point) -> Estimate:
        return Estimate(target, noise, derivative(self.alpha, t) * target + derivative(self.sigma, t) * noise)


def _along(function: Coefficient, t: Float[ArrayLike, "*times"]) -> Array:
    """The values of a function of a scalar time at any number of times, in their dtype."""
    t = jnp.asarray(t, jnp.result_type(t, float))

    def one(t: Array) -> Array:
        value = jnp.asarray(function(t), t.dtype)
        if value.shape:
            raise ValueError(f"a path's coefficient has shape {value.shape} at one time: return a scalar")
        return value

    return one(t) if t.ndim == 0 else jnp.reshape(jax.vmap(one)(t.reshape(-1)), t.shape)


@checked
def trigonometric_path() -> AffinePath:
    """The path `alpha = sin(pi t / 2)`, `sigma = cos(pi t / 2)`.

    It preserves the variance, starts with pure noise and ends with pure data ([Albergo & Vanden-Eijnden
    2023](https://arxiv.org/abs/2209.15571)). It is the GVP path of SiT ([Ma et al.
    2024](https://arxiv.org/abs/2401.08740)).

    **Returns:** a [`flowprop.AffinePath`][].

    ```python
    import flowprop as fp

    path = fp.trigonometric_path()
    print(round(float(path.alpha(0.5)), 4), round(float(path.sigma(0.5)), 4))  # 0.7071 0.7071
    print(path.velocity_span)  # (0.0, 1.0)
    ```
    """
    return AffinePath(_Sine(), _Cosine())


@checked
def polynomial_path(exponent: Real) -> AffinePath:
    """The path `alpha = t^n`, `sigma = 1 - t^n`. With `n = 1` it is the straight path of flow matching.

    This is the polynomial scheduler of [Lipman et al. 2024](https://arxiv.org/abs/2412.06264). Its point at time t is
    the point of the straight path at the time `t^n`: a larger `n` spends more time near the noise.

    **Arguments:**

    - `exponent`: `n`, positive.

    **Returns:** a [`flowprop.AffinePath`][].

    **Raises:** `ValueError` if `exponent` is not positive.

    ```python
    import flowprop as fp

    path = fp.polynomial_path(2)
    print(path.alpha(0.5), path.sigma(0.5))  # 0.25 0.75
    ```
    """
    check_number("exponent", exponent, above=0, remedy="alpha = t^n rises only for a positive exponent")
    return AffinePath(_Power(exponent), _OneMinusPower(exponent))


@checked
def variance_exploding_path(sigma_min: Real = 0.002, sigma_max: Real = 80.0, *, rho: Real = 7.0) -> AffinePath:
    """The path `alpha = 1`, with a `sigma` that falls from `sigma_max` to `sigma_min`, spaced as in EDM.

    `sigma(t) = (sigma_max^(1/rho) + t (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho` ([Karras et al.
    2022](https://arxiv.org/abs/2206.00364), eq. 5). The data are never scaled: the path starts at
    `data + sigma_max noise`. A flow starts from `N(0, (1 + sigma_max^2) I)`, which has the right variance for unit
    data. It differs from the true start by about the mean of the data over `sigma_max`.

    A network is given points with a standard deviation of up to `sigma_max`. It should divide them by
    `sqrt(1 + sigma^2)`. You can also train a flow on another path and sample it on this one, by
    `fp.change_path(flow, fp.variance_exploding_path())`.

    **Arguments:**

    - `sigma_min`: the noise left on the data, in the units of the data; positive. By default 0.002.
    - `sigma_max`: the noise at the start, much larger than the data; above `sigma_min`. By default 80.
    - `rho`: with 1 the noise falls evenly; a larger `rho` spends more time near `sigma_min`. Positive. By default 7.

    **Returns:** a [`flowprop.AffinePath`][].

    **Raises:** `ValueError` if an argument is out of its range.

    ```python
    import flowprop as fp

    path = fp.variance_exploding_path(sigma_max=10.0)
    print(round(float(path.sigma(0.0)), 3), round(float(path.sigma(0.5)), 3))  # 10.0 0.48
    prediction = fp.PreconditionedPrediction(data_std=0.5)
    flow = fp.Flow(lambda t, z, x: -z, path, prediction, shape=(2,))
    ```
    """
    check_number(
        "sigma_min", sigma_min, above=0, remedy="some noise has to be left, give a positive number such as 0.002"
    )
    check_number("sigma_max", sigma_max, above=sigma_min, remedy="sigma falls with t, give a number above `sigma_min`")
    check_number("rho", rho, above=0, remedy="give a positive number, such as EDM's 7")
    return AffinePath(_One(), _Spaced(sigma_min, sigma_max, rho))


# Modules, not lambdas, so that two paths with the same arguments are equal.


class _One(eqx.Module):
    def __call__(self, t: Scalar) -> Scalar:
        return jnp.ones_like(t)


class _Sine(eqx.Module):
    def __call__(self, t: Scalar) -> Scalar:
        return jnp.sin(jnp.pi / 2 * t)


class _Cosine(eqx.Module):
    def __call__(self, t: Scalar) -> Scalar:
        return jnp.sin(jnp.pi / 2 * (1 - t))  # exactly 0 at t = 1


class _Power(eqx.Module):
    exponent: Real

    def __call__(self, t: Scalar) -> Scalar:
        return t**self.exponent


class _OneMinusPower(eqx.Module):
    exponent: Real

    def __call__(self, t: Scalar) -> Scalar:
        return 1 - t**self.exponent


class _Spaced(eqx.Module):
    sigma_min: Real
    sigma_max: Real
    rho: Real

    def __call__(self, t: Scalar) -> Scalar:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (high + t * (low - high)) ** self.rho
