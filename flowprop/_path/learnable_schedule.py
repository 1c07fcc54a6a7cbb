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
    """`gamma_0`, and `gamma_1 = gamma_0 + exp(log_rise)`: in order for every value of the parameters."""

    start: Float[Array, ""] | Frozen
    log_rise: Float[Array, ""] | Frozen

    @property
    def values(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`(gamma_0, gamma_1)`."""
        start = unfrozen(self.start)
        return start, start + jnp.exp(unfrozen(self.log_rise))


class LearnableNoiseSchedule(AbstractNoiseSchedule):
    """A log-SNR whose shape is trained.

    `gamma(t) = gamma_0 + (gamma_1 - gamma_0) (m(t) - m(0)) / (m(1) - m(0))`, where `m` is `t` plus a network with
    positive weights and tanh units ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), appendix;
    [NoProp](https://arxiv.org/abs/2503.24322), appendix B). Every term of `m` rises with t, so gamma rises for all
    values of the parameters, and it has exactly the given end points. (Softplus or ReLU units with positive weights
    could only make a convex `m`.)

    The evidence lower bound does not depend on the shape between the end points. The losses therefore train the shape
    to lower the variance of their estimate. By default the end points are not trained: a plain regression loss does not
    determine them, and gamma_1 would fall without limit. A complete bound, with its reconstruction term and its prior
    term, does determine them. With `trainable_ends=True` they are trained by [`flowprop.ELBOObjective`][], and by no
    other loss.

    **Arguments:**

    - `hidden_dims`: the widths of the hidden layers. By default `(64, 64)`.
    - `gamma_range`: `(gamma_0, gamma_1)`, rising; the initial values if the end points are trained. By default
      `(-4.0, 4.0)`.
    - `trainable_ends`: whether the end points are trained. By default not.
    - `key`: one typed key, for the initial weights.

    **Raises:** `ValueError` if `gamma_range` does not rise or a width is not positive.

    ```python
    import flowprop as fp
    import jax

    schedule = fp.LearnableNoiseSchedule((8,), (-5.0, 5.0), key=jax.random.key(0))
    print(schedule.gamma(0.0), schedule.gamma(1.0))  # -5.0 5.0
    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(1))
    flow = fp.df_flow(network, shape=(2,), schedule=schedule)
    ```
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
            raise ValueError(
                f"`gamma_range` is {gamma_range}: give the lower end first, because the log-SNR rises with t"
            )
        if not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"`hidden_dims` is {hidden_dims}: give at least one layer, each of a positive width")
        ends = (jnp.asarray(gamma_range[0], float), jnp.asarray(np.log(gamma_range[1] - gamma_range[0]), float))
        self.end_points = EndPoints(*(ends if trainable_ends else map(Frozen, ends)))
        sizes = (1, *hidden_dims, 1)
        keys = jax.random.split(key, len(sizes) - 1)
        # The softplus of these has mean 1 / fan_in. The units of the first layer bend at different times in [0, 1].
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
        """The log-SNR, element by element.

        **Arguments:**

        - `t`: one time in [0, 1], or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        t = jnp.asarray(t)
        start, end = (end.astype(jnp.result_type(t, float)) for end in self.end_points.values)
        low, high = self._rise(jnp.zeros_like(t)), self._rise(jnp.ones_like(t))
        return start + (end - start) * (self._rise(t) - low) / (high - low)

    @property
    def gamma_range(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The current end points, `(gamma_0, gamma_1)`."""
        return self.end_points.values

    def _rise(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        h = t[..., None]
        for weight, bias in zip(self.weights, self.biases, strict=False):
            h = jnp.tanh(h @ jax.nn.softplus(weight) + jnp.expand_dims(bias, range(t.ndim)))
        return t + (h @ jax.nn.softplus(self.weights[-1]))[..., 0]


def with_fixed_ends(model: PyTree) -> PyTree:
    """`model`, with no gradient in the end points of its schedule."""
    return jax.tree.map(lambda node: stop_gradient(node) if _is_ends(node) else node, model, is_leaf=_is_ends)


def with_fixed_shape(model: PyTree) -> PyTree:
    """`model`, with a gradient in the end points of its schedule only."""
    return jax.tree.map(lambda node: node if _is_ends(node) else stop_gradient(node), model, is_leaf=_is_ends)


def _is_ends(node: PyTree) -> bool:
    return isinstance(node, EndPoints)
