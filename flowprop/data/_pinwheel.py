"""Gaussians bent into the arms of a pinwheel."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from .._types import PRNGKey, check_positive, checked
from ._density import AbstractDensity


_SCALE = 2.0
_RADIAL_STD = 0.3
_TANGENTIAL_STD = 0.1
_RATE = 0.25
#: Radii beyond this, 30 standard deviations out, are rotated by the same angle, so that the exponential stays finite.
_MAX_TWIST = 10.0


class Pinwheel(AbstractDensity):
    """Gaussians bent into the arms of a pinwheel (Johnson et al. 2016,
    [arXiv:1603.06277](https://arxiv.org/abs/1603.06277)), in the scale of
    [FFJORD's code](https://github.com/rtqichen/ffjord) (Grathwohl et al. 2019,
    [arXiv:1810.01367](https://arxiv.org/abs/1810.01367)).

    A gaussian point `f = (1 + 0.3 e_1, 0.1 e_2)`, with `e` standard normal, is rotated clockwise by the angle
    `theta_k(f_1) = 2 pi k / num_arms + 0.25 exp(f_1)` and doubled: `z = 2 R(-theta_k(f_1)) f`. The classes are the
    arms, and are equally likely. The determinant of the map is `4 (1 + 0.25 exp(f_1) f_2)`, so that

        p(z | k) = N(f_1; 1, 0.3^2) N(f_2; 0, 0.1^2) / (4 |1 + 0.25 exp(f_1) f_2|),

    where `f` solves a scalar equation. The determinant is negative with probability 1e-9. There the arm folds over
    itself; the density counts the layers next to the arm's centre line, and omits the others.

    The standard deviation of each coordinate is 1.48.

    ```python
    import jax
    import flowprop as fp

    density = fp.data.Pinwheel(num_arms=5)
    points, labels = density.sample(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(density.num_classes)  # 5
    ```

    **Arguments:**

    - `num_arms`: the number of arms, 5 by default.

    **Raises:** `ValueError` if `num_arms` is not positive.
    """

    num_arms: int = eqx.field(default=5, static=True)

    def __check_init__(self) -> None:
        check_positive(num_arms=self.num_arms)

    @property
    def dim(self) -> int:
        return 2

    @property
    def priors(self) -> tuple[float, ...]:
        return (1 / self.num_arms,) * self.num_arms

    def _draw(self, labels: Int[Array, " n"], key: PRNGKey) -> Float[Array, "n 2"]:
        e1, e2 = jax.random.normal(key, (2, len(labels)))
        f1, f2 = 1 + _RADIAL_STD * e1, _TANGENTIAL_STD * e2
        return _SCALE * jnp.stack(_turn(f1, f2, -_arm(labels, self.num_arms) - _twist(f1)), axis=-1)

    def _class_log_prob(self, z: Float[Array, "2"]) -> Float[Array, " arms"]:
        arms = _arm(jnp.arange(self.num_arms), self.num_arms).astype(z.dtype)
        return jax.vmap(_arm_log_prob, in_axes=(None, 0))(z / _SCALE, arms)


def _arm(labels: Int[Array, " n"], num_arms: int) -> Float[Array, " n"]:
    return 2 * math.pi / num_arms * labels


def _twist(f1: Float[Array, "*roots"]) -> Float[Array, "*roots"]:
    return _RATE * jnp.exp(jnp.minimum(f1, _MAX_TWIST))


def _turn(
    x: Float[Array, "*any"], y: Float[Array, "*any"], angle: Float[Array, "*roots"]
) -> tuple[Float[Array, "*roots"], Float[Array, "*roots"]]:
    """`(x, y)` rotated anticlockwise."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


def _arm_log_prob(w: Float[Array, "2"], arm: Float[Array, ""]) -> Float[Array, ""]:
    """The log-density of `z = 2 w` in the arm that starts at the angle `arm`."""
    f1, exists = _preimages(jax.lax.stop_gradient(w), arm)
    # Two Newton steps refine the roots, and give them a derivative with respect to w; bisection has none.
    for _ in range(2):
        turned, _, determinant = _unbend(w, arm, f1)
        f1 = f1 - (f1 - turned) / determinant
    _, f2, determinant = _unbend(w, arm, f1)
    log_normal = jax.scipy.stats.norm.logpdf
    log_prob = log_normal(f1, 1, _RADIAL_STD) + log_normal(f2, 0, _TANGENTIAL_STD) - jnp.log(_SCALE**2 * determinant)
    return jax.nn.logsumexp(jnp.where(exists, log_prob, -jnp.inf))


def _unbend(
    w: Float[Array, "2"], arm: Float[Array, ""], f1: Float[Array, "2"]
) -> tuple[Float[Array, "2"], Float[Array, "2"], Float[Array, "2"]]:
    """`w` rotated back, assuming the radial coordinate `f1`: both coordinates, and the determinant there."""
    turned, f2 = _turn(w[0], w[1], arm + _twist(f1))
    return turned, f2, jnp.maximum(1 + _twist(f1) * f2, 1e-6)


def _preimages(w: Float[Array, "2"], arm: Float[Array, ""]) -> tuple[Float[Array, "2"], Bool[Array, "2"]]:
    """The radial coordinates `f_1 = r cos(phi)` that are mapped to `w`, on both sides of the arm's centre line.

    The first is anticlockwise of the centre line, the second clockwise; the booleans say which of them exist. The map
    keeps the radius `r`, and changes the angle `phi` of `f` to that of `w`. With
    `delay(phi) = phi + c e^r - c e^(r cos phi)` the equation is `delay(phi) = target`, modulo `2 pi`, and the slope of
    the delay is the determinant. For `phi > 0` the slope is positive. For `phi < 0` the slope has one minimum, so that
    the delay rises to 0 after the last fold, if there is one.
    """
    r = jnp.hypot(w[0], w[1])
    target = jnp.mod(jnp.arctan2(w[1], w[0]) + arm + _twist(r), 2 * math.pi)

    def delay(phi: Float[Array, "*roots"]) -> Float[Array, "*roots"]:
        return phi + _twist(r) - _twist(r * jnp.cos(phi))

    def slope(phi: Float[Array, ""]) -> Float[Array, ""]:
        return 1 + _twist(r * jnp.cos(phi)) * r * jnp.sin(phi)

    steepest = -jnp.arccos(2 * r / (1 + jnp.sqrt(1 + 4 * r**2)))
    fold = _bisect(slope, steepest, jnp.zeros_like(r))
    left = delay(jnp.full_like(r, math.pi)) >= target
    right = (slope(steepest) < 0) & (delay(fold) <= target - 2 * math.pi)
    lower = jnp.stack([jnp.zeros_like(r), jnp.where(right, fold, -math.pi)])
    upper = jnp.asarray([math.pi, 0.0], w.dtype)
    targets = jnp.stack([target, target - 2 * math.pi])
    phi = _bisect(lambda phi: delay(phi) - targets, lower, upper)
    # Without a fold there is one root in [-pi, pi]. If it is not on the left, [-pi, 0] contains it.
    return r * jnp.cos(phi), jnp.stack([left, right | ~left])


def _bisect(
    rising: Callable[[Float[Array, "*roots"]], Float[Array, "*roots"]],
    lower: Float[Array, "*roots"],
    upper: Float[Array, "*roots"],
) -> Float[Array, "*roots"]:
    def halve(_: Int[Array, ""], bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = rising(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, 24, halve, (lower, upper))
    return (low + high) / 2


@checked
def pinwheel(n: int, num_arms: int = 5, *, key: PRNGKey) -> tuple[Float[Array, "{n} 2"], Int32[Array, "{n}"]]:
    """Draw points and labels from [`flowprop.data.Pinwheel`][], the arms of a pinwheel.

    ```python
    import jax
    import flowprop as fp

    points, labels = fp.data.pinwheel(1000, key=jax.random.key(0))
    print(points.shape, labels.shape)  # (1000, 2) (1000,)
    print(sorted(set(labels.tolist())))  # [0, 1, 2, 3, 4]
    ```

    **Arguments:**

    - `n`: the number of points.
    - `num_arms`: the number of arms, 5 by default.
    - `key`: a typed key, `jax.random.key(seed)`. The same key gives the same points.

    **Returns:** points `(n, 2)`, and labels `(n,)` in `0 ... num_arms - 1`: the arm.

    **Raises:** `ValueError` if `n` is negative, or `num_arms` is not positive.
    """
    return Pinwheel(num_arms).sample(n, key=key)
