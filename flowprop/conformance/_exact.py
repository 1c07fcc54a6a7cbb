"""What a perfectly trained flow would say: closed forms on a path, and the exact pushforward."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._path.path import derivative
from .._types import Point, PRNGKey, Time, checked
from ._mixture import Mixture
from ._runge_kutta import Grid, carry, coefficients, grid


#: Other libraries' points come from NumPy.
AnyPoint = Float[Array | np.ndarray, " d"]


@runtime_checkable
class GaussianPath(Protocol):
    """Anything with `alpha(t)` and `sigma(t)` in JAX, element by element: `z_t = alpha z_1 + sigma z_0`."""

    def alpha(self, t: Any, /) -> Array:
        """The factor of the data."""

    def sigma(self, t: Any, /) -> Array:
        """The factor of the noise."""


class Fields(NamedTuple):
    """What there is to say of a point of the path, or of many."""

    target: Array | np.ndarray
    noise: Array | np.ndarray
    velocity: Array | np.ndarray
    score: Array | np.ndarray


# No module: `jax.jit(exact.velocity)` must do, by whatever library.
@dataclass(frozen=True, eq=False)
class Exact:
    """Data that is known exactly, on a path: the network of a flow that needs no training.

    `target`, `noise`, `velocity` and `score` see one point. Give the one that your library's network should return in
    place of a network. `transport`, `log_prob` and `moments` are what the flow must then give, computed in double
    precision by a Runge-Kutta method of its own.

    **Arguments:**

    - `data`: a gaussian or a mixture of them.
    - `path`: such as [`flowprop.CondOTPath`][], or any object with methods `alpha(t)` and `sigma(t)`.
    - `span`: the times between which the flow is integrated. Its noise is gaussian of variance
      `alpha^2 + sigma^2` at the first.
    """

    data: Mixture
    path: GaussianPath
    span: tuple[float, float] = (0.0, 1.0)

    def target(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """`E[z_1 | z_t = z]`."""
        return self.data.expectations(self.path.alpha(t), self.path.sigma(t), jnp.asarray(z))[0]

    def noise(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """`E[z_0 | z_t = z]`."""
        return self.data.expectations(self.path.alpha(t), self.path.sigma(t), jnp.asarray(z))[1]

    def velocity(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """`alpha' E[z_1 | z_t = z] + sigma' E[z_0 | z_t = z]`."""
        alpha, sigma = self.path.alpha, self.path.sigma
        coefficients = (alpha(t), sigma(t), derivative(alpha, t), derivative(sigma, t))
        return self.data.velocity(coefficients, jnp.asarray(z))

    def score(self, t: Time, z: AnyPoint, x: PyTree = None) -> Point:
        """`grad log p_t(z)`."""
        return self.data.score(self.path.alpha(t), self.path.sigma(t), jnp.asarray(z))

    def truth(self, times: Float[np.ndarray, " n"], z: Float[Array | np.ndarray, "n d"]) -> Fields:
        """All four at many points, each at a time of its own, in double precision."""
        with jax.enable_x64(True):
            values = _fields(self.data, jnp.asarray(coefficients(self.path, times)), jnp.asarray(np.asarray(z), float))
            return Fields(*map(np.asarray, values))

    def draw(self, times: Float[np.ndarray, " n"], *, key: PRNGKey) -> Float[Array, "n d"]:
        """Points of the path, one at each time."""
        key_data, key_noise = jax.random.split(key)
        z1 = self.data.sample(len(times), key=key_data)
        alpha, sigma = jnp.asarray(coefficients(self.path, times)[:, :2].T[..., None], z1.dtype)
        return alpha * z1 + sigma * jax.random.normal(key_noise, z1.shape)

    def draw_noise(self, num_points: int, *, key: PRNGKey) -> Float[Array, "{num_points} d"]:
        """Where samples start: gaussian noise, of variance 1 but for a span that starts late."""
        noise_std = np.hypot(*coefficients(self.path, np.asarray(self.span[:1]))[0, :2])
        return float(noise_std) * jax.random.normal(key, (num_points, self.data.means.shape[1]))

    @checked
    def transport(self, z0: Float[Array | np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Where the ODE carries noise to, in data coordinates `z / alpha` at the end."""
        solve = grid(self.path, self.span, 500)
        return carry(self.data, solve, z0)[0] / solve.coefficients[-1, -1, 0]

    @checked
    def log_prob(self, z1: Float[Array | np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The log-density of the flow at data, in nats: the pushforward of the noise by the ODE."""
        return self._log_prob(z1, grid(self.path, self.span, 500))

    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """Mean and covariance of the flow's samples: the integrals of its density over a grid, in few dimensions.

        The trapezoidal rule on a smooth density that ends in the grid is as good as exact once its spacing is that of
        the narrowest deviation.
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
