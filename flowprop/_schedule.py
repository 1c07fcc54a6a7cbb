"""Noise schedules: the log-SNR gamma(t) of a variance-preserving path, rising from noise to data.

In terms of the schedules that papers name: alpha-bar is `alpha^2 = sigmoid(gamma)`, the signal's
share of the variance. A schedule is one function, `gamma`; everything else follows from it.
"""

import abc
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ._frozen import Frozen, unfrozen
from ._types import PRNGKey, Real, check_key, checked


class AbstractNoiseSchedule(eqx.Module):
    """The log signal-to-noise ratio as a rising function of time on [0, 1]."""

    @abc.abstractmethod
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR `log(alpha^2 / sigma^2)`, element by element; differentiable in `t`."""


def _logit(share: Array) -> Array:
    return jnp.log(share) - jnp.log1p(-share)


class LinearNoiseSchedule(AbstractNoiseSchedule):
    """`alpha^2 = 0.01 + 0.98 t`: log-SNR from -4.6 to 4.6."""

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element."""
        return _logit(0.01 + 0.98 * jnp.asarray(t))


class CosineNoiseSchedule(AbstractNoiseSchedule):
    """`alpha^2 = 0.01 + 0.98 sin(pi t / 2)`: log-SNR from -4.6 to 4.6, flat at the data's end."""

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element."""
        return _logit(0.01 + 0.98 * jnp.sin(jnp.pi / 2 * jnp.asarray(t)))


@checked
class SigmoidNoiseSchedule(AbstractNoiseSchedule):
    """`gamma = scale (t - 1/2)`, so that `alpha^2` is a sigmoid of time.

    The scale sets how much noise is left on the data, `sigma^2(1) = sigmoid(-scale / 2)`. On two
    moons with noise 0.1 that costs 0.073 nats of mean log-likelihood at scale 10, 0.019 at 12
    and 0.005 at 14, even for a perfect network.

    **Arguments:**

    - `scale`: the range of the log-SNR, positive.

    **Raises:** `ValueError` if `scale` is not positive.
    """

    scale: Real = 13.0

    def __check_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"`scale` is {self.scale}: the log-SNR rises with t only for a positive scale")

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element."""
        return self.scale * (jnp.asarray(t) - 0.5)


class LearnableNoiseSchedule(AbstractNoiseSchedule):
    """A log-SNR whose shape is trained (Kingma et al. 2021, appendix; NoProp, appendix B).

    `gamma(t) = gamma_0 + (gamma_1 - gamma_0) (m(t) - m(0)) / (m(1) - m(0))`, where `m` is `t` plus
    a network with positive weights and tanh units: every term rises with t, hence so does gamma,
    whatever the parameters; the ends are met exactly. (Softplus or ReLU units under positive
    weights could only make a convex `m`.)

    The end points stay where they are put: with a plain regression loss nothing holds them, and
    gamma_1 would run to minus infinity. The evidence lower bound does not depend on the shape in
    between, so that [`flowprop.Flow.loss`][] trains the shape to lower the variance of its estimate.

    **Arguments:**

    - `hidden_dims`: widths of the hidden layers.
    - `gamma_range`: `(gamma_0, gamma_1)`, rising.
    - `key`: for the initial weights.

    **Raises:** `ValueError` if `gamma_range` does not rise or a width is not positive.
    """

    gamma_range: Frozen
    weights: tuple[Float[Array, "fan_in fan_out"], ...]
    biases: tuple[Float[Array, " fan_out"], ...]

    @checked
    def __init__(
        self,
        hidden_dims: tuple[int, ...] = (64, 64),
        gamma_range: tuple[Real, Real] = (-4.0, 4.0),
        *,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        if gamma_range[0] >= gamma_range[1]:
            raise ValueError(f"`gamma_range` is {gamma_range}: give the lower end first, for the log-SNR rises with t")
        if not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"`hidden_dims` is {hidden_dims}: give at least one layer, each of a positive width")
        self.gamma_range = Frozen(jnp.asarray(gamma_range, float))
        sizes = (1, *hidden_dims, 1)
        keys = jax.random.split(key, len(sizes) - 1)
        # Softplus of these has mean 1 / fan_in; each first unit bends at a place of its own in [0, 1].
        self.weights = tuple(
            np.log(np.expm1(steepness / fan_in)) + 0.5 * jax.random.normal(k, (fan_in, fan_out))
            for k, (fan_in, fan_out), steepness in zip(
                keys, pairwise(sizes), (6.0, *[1.0] * len(hidden_dims)), strict=True
            )
        )
        self.biases = (
            -6.0 * jnp.linspace(0.0, 1.0, hidden_dims[0]),
            *(jnp.zeros(size) for size in hidden_dims[1:]),
        )

    @checked
    def gamma(self, t: Float[ArrayLike, "*times"]) -> Float[Array, "*times"]:
        """The log-SNR, element by element."""
        t = jnp.asarray(t)
        start, end = unfrozen(self.gamma_range).astype(jnp.result_type(t, float))
        low, high = self._rise(jnp.zeros_like(t)), self._rise(jnp.ones_like(t))
        return start + (end - start) * (self._rise(t) - low) / (high - low)

    def _rise(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        h = t[..., None]
        for weight, bias in zip(self.weights, self.biases, strict=False):
            h = jnp.tanh(h @ jax.nn.softplus(weight) + jnp.expand_dims(bias, range(t.ndim)))
        return t + (h @ jax.nn.softplus(self.weights[-1]))[..., 0]
