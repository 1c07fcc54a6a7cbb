"""The values that a perfectly trained flow has: closed forms on the path, and the exact pushforward."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._path.span import derivative
from .._types import Point, PRNGKey, Time, checked
from ._mixture import Mixture
from ._runge_kutta import Grid, carry, coefficients, grid


#: Other libraries may pass NumPy arrays.
AnyPoint = Float[Array | np.ndarray, " d"]


@runtime_checkable
class GaussianPath(Protocol):
    """The interface of a gaussian path `z_t = alpha(t) z_1 + sigma(t) z_0`: two methods, `alpha(t)` and `sigma(t)`.

    Here `z_1` is data and `z_0` is noise from `N(0, I)` (the interpolant of
    [Albergo et al. 2023](https://arxiv.org/abs/2303.08797)). Both methods must be written in JAX, so that they can be
    differentiated, and must work element by element on arrays of times. All paths of this library, such as
    [`flowprop.CondOTPath`][], have this interface. An object of another library needs no base class.

    ```python
    import flowprop as fp
    import jax.numpy as jnp


    class Trigonometric:
        def alpha(self, t):
            return jnp.sin(jnp.pi / 2 * t)

        def sigma(self, t):
            return jnp.cos(jnp.pi / 2 * t)


    print(isinstance(Trigonometric(), fp.conformance.GaussianPath))  # True
    exact = fp.conformance.Exact(fp.conformance.MIXTURE, Trigonometric())
    ```
    """

    def alpha(self, t: Any, /) -> Array:
        """The factor of the data.

        **Arguments:**

        - `t`: one time or an array of times in [0, 1].

        **Returns:** an array of the shape of `t`.
        """

    def sigma(self, t: Any, /) -> Array:
        """The factor of the noise.

        **Arguments:**

        - `t`: one time or an array of times in [0, 1].

        **Returns:** an array of the shape of `t`.
        """


class Fields(NamedTuple):
    """Target, noise, velocity and score at one point of the path, or at many points.

    **Arguments:**

    - `target`: the expected data `E[z_1 | z_t = z]` (x0-prediction or denoiser output in the literature).
    - `noise`: the expected noise `E[z_0 | z_t = z]` (epsilon).
    - `velocity`: the velocity of the probability-flow ODE.
    - `score`: `grad_z log p_t(z)`.

    Each has the shape of the points, `(d,)` or `(n, d)`.

    ```python
    import flowprop as fp
    import numpy as np

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    fields = exact.truth(np.array([0.2, 0.8]), np.zeros((2, 2)))
    print(fields.velocity.shape)  # (2, 2)
    ```
    """

    target: Array | np.ndarray
    noise: Array | np.ndarray
    velocity: Array | np.ndarray
    score: Array | np.ndarray


# Not an `eqx.Module`: any library must be able to call `jax.jit(exact.velocity)`.
@dataclass(frozen=True, eq=False)
class Exact:
    """The exact quantities of a flow whose data distribution is known: use it instead of a trained network.

    `target`, `noise`, `velocity` and `score` take one point. Give your library the one that its network predicts.
    `transport`, `log_prob` and `moments` are the results that the flow must then have. They are computed in double
    precision with a separate Runge-Kutta method.

    On the path `z_t = alpha z_1 + sigma z_0` the velocity of the probability-flow ODE is
    `alpha' E[z_1 | z_t = z] + sigma' E[z_0 | z_t = z]`
    ([Albergo et al. 2023](https://arxiv.org/abs/2303.08797), section 2).

    **Arguments:**

    - `data`: the data distribution, a [`flowprop.conformance.Mixture`][].
    - `path`: the path, such as [`flowprop.CondOTPath`][], or any object with methods `alpha(t)` and `sigma(t)`.
    - `span`: the first and the last time of the integration. By default (0, 1). At the first time the noise is
      gaussian with variance `alpha^2 + sigma^2`.

    ```python
    import flowprop as fp
    import jax
    import numpy as np

    exact = fp.conformance.Exact(fp.conformance.GAUSSIAN, fp.CondOTPath())
    z1 = exact.data.sample(5, key=jax.random.key(0))
    # On this path the flow starts with pure noise, so it has the density of the data.
    error = exact.log_prob(z1) - jax.vmap(exact.data.log_prob)(z1)
    print(bool(np.abs(error).max() < 1e-3))  # True
    ```
    """

    data: Mixture
    path: GaussianPath
    span: tuple[float, float] = (0.0, 1.0)

    def target(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """The target `E[z_1 | z_t = z]`: the expected data, called x0-prediction or denoiser output in the literature.

        **Arguments:**

        - `t`: the time.
        - `z`: one point `(d,)` on the path.
        - `x`: ignored. A network may be called with a condition.

        **Returns:** an array `(d,)`.
        """
        return self.data.expectations(self.path.alpha(t), self.path.sigma(t), jnp.asarray(z))[0]

    def noise(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """The noise `E[z_0 | z_t = z]`: the expected noise, called epsilon in the literature.

        **Arguments:**

        - `t`: the time.
        - `z`: one point `(d,)` on the path.
        - `x`: ignored. A network may be called with a condition.

        **Returns:** an array `(d,)`.
        """
        return self.data.expectations(self.path.alpha(t), self.path.sigma(t), jnp.asarray(z))[1]

    def velocity(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """The velocity of the probability-flow ODE, `alpha' E[z_1 | z_t = z] + sigma' E[z_0 | z_t = z]`.

        **Arguments:**

        - `t`: the time.
        - `z`: one point `(d,)` on the path.
        - `x`: ignored. A network may be called with a condition.

        **Returns:** an array `(d,)`.
        """
        alpha, sigma = self.path.alpha, self.path.sigma
        coefficients = (alpha(t), sigma(t), derivative(alpha, t), derivative(sigma, t))
        return self.data.velocity(coefficients, jnp.asarray(z))

    def score(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """The score `grad_z log p_t(z)`.

        **Arguments:**

        - `t`: the time.
        - `z`: one point `(d,)` on the path.
        - `x`: ignored. A network may be called with a condition.

        **Returns:** an array `(d,)`.
        """
        return self.data.score(self.path.alpha(t), self.path.sigma(t), jnp.asarray(z))

    def truth(self, times: Float[np.ndarray, " n"], z: Float[Array | np.ndarray, "n d"]) -> Fields:
        """Target, noise, velocity and score at many points, in double precision.

        **Arguments:**

        - `times`: one time for each point, `(n,)`.
        - `z`: the points on the path, `(n, d)`.

        **Returns:** the [`flowprop.conformance.Fields`][], each of shape `(n, d)`.
        """
        with jax.enable_x64(True):
            values = _fields(self.data, jnp.asarray(coefficients(self.path, times)), jnp.asarray(np.asarray(z), float))
            return Fields(*map(np.asarray, values))

    def draw(self, times: Float[np.ndarray, " n"], *, key: PRNGKey) -> Float[Array, "n d"]:
        """Draw one point of the path at each time: `alpha(t) z_1 + sigma(t) z_0`.

        **Arguments:**

        - `times`: the times, `(n,)`.
        - `key`: a typed key.

        **Returns:** points `(n, d)` in path coordinates.
        """
        key_data, key_noise = jax.random.split(key)
        z1 = self.data.sample(len(times), key=key_data)
        alpha, sigma = jnp.asarray(coefficients(self.path, times)[:, :2].T[..., None], z1.dtype)
        return alpha * z1 + sigma * jax.random.normal(key_noise, z1.shape)

    def draw_noise(self, num_points: int, *, key: PRNGKey) -> Float[Array, "{num_points} d"]:
        """Draw the start points of samples: gaussian noise with variance `alpha^2 + sigma^2` at the first time.

        The variance is 1 if the span starts at t = 0.

        **Arguments:**

        - `num_points`: how many points to draw.
        - `key`: a typed key.

        **Returns:** points `(num_points, d)`.
        """
        noise_std = np.hypot(*coefficients(self.path, np.asarray(self.span[:1]))[0, :2])
        return float(noise_std) * jax.random.normal(key, (num_points, self.data.means.shape[1]))

    @checked
    def transport(self, z0: Float[Array | np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """The end points of the probability-flow ODE, in data coordinates: `z / alpha` at the last time.

        **Arguments:**

        - `z0`: the start points (noise), `(n, d)`.

        **Returns:** the end points, `(n, d)`, in double precision.
        """
        solve = grid(self.path, self.span, 500)
        return carry(self.data, solve, z0)[0] / solve.coefficients[-1, -1, 0]

    @checked
    def log_prob(self, z1: Float[Array | np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The log-density of the flow at data, in nats.

        This is the density of the noise after the ODE has moved it (the pushforward). It follows from the integral of
        the divergence, `d log p / dt = -div v` ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), theorem 1).

        **Arguments:**

        - `z1`: data points, `(n, d)`.

        **Returns:** log-densities `(n,)`, in double precision.
        """
        return self._log_prob(z1, grid(self.path, self.span, 500))

    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """The mean and the covariance of the samples of the flow, as integrals of its density over a grid.

        Use it in one or two dimensions: the number of grid points grows exponentially with the dimension. The error of
        the trapezoidal rule is negligible if the density is smooth, lies inside the grid, and the spacing is at most
        the smallest standard deviation.

        **Returns:** the mean `(d,)` and the covariance `(d, d)`, in double precision.
        """
        mean, deviation, narrowest = self.data.mean, np.sqrt(np.diag(self.data.covariance)), self.data.variances.min()
        num_nodes = max(48, int(np.ceil(12 * deviation.max() / np.sqrt(narrowest))))
        axes = np.linspace(mean - 6 * deviation, mean + 6 * deviation, num_nodes, axis=1)
        points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, len(axes))
        weight = np.exp(self._log_prob(points, grid(self.path, self.span, 60)))
        weight /= weight.sum()
        mean = weight @ points
        return mean, (weight[:, None] * (points - mean)).T @ (points - mean)

    def _log_prob(self, z1: Array | np.ndarray, solve: Grid) -> np.ndarray:
        alpha, noise_std = solve.coefficients[-1, -1, 0], np.hypot(*solve.coefficients[0, 0, :2])
        z0, change = carry(self.data, solve.backwards, alpha * np.asarray(z1, float))
        normal = -0.5 * (z0 / noise_std) ** 2 - np.log(np.sqrt(2 * np.pi) * noise_std / alpha)
        return normal.sum(axis=1) + change


@jax.jit
def _fields(data: Mixture, coefficients: Array, z: Array) -> Fields:
    def one(c: Array, z: Array) -> Fields:
        return Fields(*data.expectations(c[0], c[1], z), data.velocity(c, z), data.score(c[0], c[1], z))

    return jax.vmap(one)(coefficients, z)
