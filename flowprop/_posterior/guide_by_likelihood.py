"""Guidance of a trained flow by a gaussian likelihood, without further training."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._flow.checks import refuse_if
from .._flow.flow import Flow
from .._flow.noise import check_gaussian
from .._frozen import Frozen
from .._path.prediction import TargetPrediction
from .._types import Point, Real, Time, check_shape, checked
from .observations import without_encoder


#: Below this `alpha_t`, the covariance of the data given `z_t` is not divided further: the errors of a network are.
_LEAST_ALPHA = 0.01


@checked
def guide_by_likelihood(
    flow: Flow,
    measure: Callable[[Array], Array],
    x: Float[Array | np.ndarray, "..."],
    std: Real | Float[Array | np.ndarray, "..."],
) -> Flow:
    """The flow of `p(z) N(x; measure(z), std^2)`, normalised: guidance of a flow by a measurement of its data.

    The flow is the prior, or a posterior of another observation, and is not trained further. For a path
    `z_t = alpha_t z_1 + sigma_t epsilon`, the data given `z_t` have the mean `u`, the target that the flow estimates,
    and the covariance `C = (sigma_t^2 / alpha_t) du/dz_t`. If they are gaussian, and `A` is the derivative of `measure`
    at `u`, the target given the measurement too is

    `u + C A^T (A C A^T + std^2)^-1 (x - measure(u))`

    (Tweedie moment projection, [Boys et al. 2023](https://arxiv.org/abs/2310.06721)). This is exact if the data are
    gaussian in the coordinates of the flow and `measure` is affine in them, up to 0.1 nats, since the first hundredth
    of the path is guided less. Otherwise it is an approximation: weight its samples by
    [`flowprop.importance_weights`][], with `fp.log_prob` of the guided flow as their density.

    Each evaluation computes the derivative of the target, as many derivatives of the network as a point has numbers:
    use it for up to about a hundred.

    **Arguments:**

    - `flow`: the trained flow, with gaussian noise.
    - `measure`: a function in JAX from one data point, in the units of the data, to what is measured.
    - `x`: the measurement, of the shape that `measure` returns.
    - `std`: the standard deviation of its noise, a number or an array of the shape of `x`.

    **Returns:** a flow with the shape and the condition of `flow`.

    **Raises:** `ValueError` if the noise of the flow is not gaussian, `x` or `std` has another shape than `measure`
    returns, `x` is not finite, or `std` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    flow = fp.fm_flow(lambda t, z, x: z * (2 * t - 1) / (t**2 + (1 - t) ** 2), shape=(2,))  # N(0, I)
    guided = fp.guide_by_likelihood(flow, lambda z: z[:1], jnp.array([1.0]), 1.0)
    samples = fp.sample(guided, 1000, key=jax.random.key(0))
    print(abs(samples.mean(axis=0) - jnp.array([0.5, 0.0])).max() < 0.1)  # True
    print(abs(samples.std(axis=0) - jnp.array([0.5**0.5, 1.0])).max() < 0.1)  # True
    ```
    """
    check_gaussian(flow, "guidance by a likelihood")
    wanted = jax.eval_shape(
        lambda z: measure(flow.transform.inverse(z)), jax.ShapeDtypeStruct(flow.shape, jnp.result_type(float))
    )
    observed, noise = jnp.asarray(x, float), jnp.asarray(std, float)
    check_shape("x", observed, wanted.shape, "the shape that `measure` returns")
    if noise.ndim:
        check_shape("std", noise, wanted.shape, "one number, or the shape of `x`")
    observed = refuse_if(observed, ~jnp.isfinite(observed).all(), "`x` is not finite: give finite numbers")
    noise = refuse_if(noise, ~(jnp.isfinite(noise) & (noise > 0)).all(), "`std` is not positive: give positive numbers")
    network = _Guided(
        without_encoder(flow), measure, Frozen(observed.ravel()), Frozen(jnp.broadcast_to(noise, wanted.shape).ravel())
    )
    return Flow(
        network, flow.path, TargetPrediction(), shape=flow.shape, transform=flow.transform, encoder=flow.encoder
    )


class _Guided(eqx.Module):
    """The network: the target given the measurement."""

    flow: Flow
    measure: Callable[[Array], Array]
    x: Frozen
    std: Frozen

    def __call__(self, t: Time, z: Point, features: PyTree = None) -> Point:
        def target(z: Array) -> tuple[Array, Array]:
            u = self.flow.estimate(t, z.reshape(self.flow.shape), features).target.ravel()
            return u, u

        def measured(u: Array) -> tuple[Array, Array]:
            values = self.measure(self.flow.transform.inverse(u.reshape(self.flow.shape))).ravel()
            return values, values

        slope, u = jax.jacfwd(target, has_aux=True)(z.ravel())
        linear, values = jax.jacfwd(measured, has_aux=True)(u)
        alpha, sigma = self.flow.path.alpha(t), self.flow.path.sigma(t)
        covariance = _nonnegative(sigma**2 / jnp.maximum(alpha, _LEAST_ALPHA) * (slope + slope.T) / 2)
        x, std = self.x.value.astype(z.dtype), self.std.value.astype(z.dtype)
        of_x = linear @ covariance @ linear.T + jnp.diag(std**2)
        gain = jnp.linalg.solve(of_x, x - values)
        return (u + covariance @ (linear.T @ gain)).reshape(z.shape)


@jax.custom_jvp
def _nonnegative(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """A symmetric matrix without its negative eigenvalues, which only errors of a network make."""
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.maximum(values, 0)[None]) @ vectors.T


@_nonnegative.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The formula of Daleckii and Krein, which is finite also where eigenvalues are equal."""
    values, vectors = jnp.linalg.eigh(primals[0])
    kept = jnp.maximum(values, 0)
    apart = values[:, None] - values[None]
    equal = jnp.abs(apart) <= 1e-6 * jnp.max(jnp.abs(values), initial=1e-30)
    quotient = (kept[:, None] - kept[None]) / jnp.where(equal, 1, apart)
    slope = jnp.where(equal, (values > 0).astype(values.dtype)[:, None] * jnp.ones_like(apart), quotient)
    change = vectors @ (slope * (vectors.T @ tangents[0] @ vectors)) @ vectors.T
    return (vectors * kept[None]) @ vectors.T, change
