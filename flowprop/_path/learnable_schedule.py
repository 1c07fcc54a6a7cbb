"""A log-SNR whose shape is trained."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._frozen import Frozen, stop_gradient, unfrozen
from .._types import PRNGKey, Real, check_key, checked
from .schedule import AbstractNoiseSchedule


class EndPoints(eqx.Module):
    """`gamma_0`, and `gamma_1 = gamma_0 + exp(log_rise)`: in order whatever the parameters."""

    start: Float[Array, ""] | Frozen
    log_rise: Float[Array, ""] | Frozen

    @property
    def values(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`(gamma_0, gamma_1)`."""
        start = unfrozen(self.start)
        return start, start + jnp.exp(unfrozen(self.log_rise))


class LearnableNoiseSchedule(AbstractNoiseSchedule):
    """A log-SNR whose shape is trained (Kingma et al. 2021, appendix; NoProp, appendix B).

    `gamma(t) = gamma_0 + (gamma_1 - gamma_0) (m(t) - m(0)) / (m(1) - m(0))`, where `m` is `t` plus
    a network with positive weights and tanh units: every term rises with t, hence so does gamma,
    whatever the parameters; the ends are met exactly. (Softplus or ReLU units under positive
    weights could only make a convex `m`.)

    The evidence lower bound does not depend on the shape in between, so that the losses train the
    shape to lower the variance of their estimate. The end points stay where they are put: with a
    plain regression loss nothing holds them, and gamma_1 would run to minus infinity. A whole
    bound, with its reconstruction and prior, does hold them: with `trainable_ends` they are trained
    by [`flowprop.ELBOObjective`][], and by nothing else.

    **Arguments:**

    - `hidden_dims`: widths of the hidden layers.
    - `gamma_range`: `(gamma_0, gamma_1)`, rising; where they start if they are trained.
    - `trainable_ends`: whether the end points are trained too.
    - `key`: for the initial weights.

    **Raises:** `ValueError` if `gamma_range` does not rise or a width is not positive.
    """

    end_points: EndPoints
    weights: tuple[Float[Array, "fan_in fan_out"], ...]
    biases: tuple[Float[Array, " fan_out"], ...]

    @checked
    def __init__(
        self,
        hidden_dims: tuple[int, ...] = (64, 64),
        gamma_range: tuple[Real, Real] = (-4.0, 4.0),
        *,
        trainable_ends: bool = False,
        key: PRNGKey,
    ) -> None:
        check_key("key", key)
        if not -np.inf < gamma_range[0] < gamma_range[1] < np.inf:
            raise ValueError(f"`gamma_range` is {gamma_range}: give the lower end first, for the log-SNR rises with t")
        if not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"`hidden_dims` is {hidden_dims}: give at least one layer, each of a positive width")
        ends = (jnp.asarray(gamma_range[0], float), jnp.asarray(np.log(gamma_range[1] - gamma_range[0]), float))
        self.end_points = EndPoints(*(ends if trainable_ends else map(Frozen, ends)))
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
        start, end = (end.astype(jnp.result_type(t, float)) for end in self.end_points.values)
        low, high = self._rise(jnp.zeros_like(t)), self._rise(jnp.ones_like(t))
        return start + (end - start) * (self._rise(t) - low) / (high - low)

    @property
    def gamma_range(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`(gamma_0, gamma_1)`, as they stand."""
        return self.end_points.values

    def _rise(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        h = t[..., None]
        for weight, bias in zip(self.weights, self.biases, strict=False):
            h = jnp.tanh(h @ jax.nn.softplus(weight) + jnp.expand_dims(bias, range(t.ndim)))
        return t + (h @ jax.nn.softplus(self.weights[-1]))[..., 0]


def with_fixed_ends(model: PyTree) -> PyTree:
    """`model` with no gradient flowing into the end points of its schedule."""
    return jax.tree.map(lambda node: stop_gradient(node) if _is_ends(node) else node, model, is_leaf=_is_ends)


def with_fixed_shape(model: PyTree) -> PyTree:
    """`model` with no gradient flowing into anything but the end points of its schedule."""
    return jax.tree.map(lambda node: node if _is_ends(node) else stop_gradient(node), model, is_leaf=_is_ends)


def _is_ends(node: PyTree) -> bool:
    return isinstance(node, EndPoints)
