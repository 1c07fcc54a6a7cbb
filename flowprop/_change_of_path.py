"""A trained flow along another path."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._flow import Flow
from ._path import AbstractPath, CondOTPath, Estimate, derivative
from ._prediction import AbstractPrediction
from ._types import Point, Scalar, Time, Times, checked


@checked
def change_path(flow: Flow, path: AbstractPath) -> Flow:
    """A trained flow along another path or schedule: exact, and without training.

    Where two paths have the same log-SNR, their points differ by a factor. At time `t` of the new
    path, `gamma_old(s) = gamma(t)` gives the old time `s`, and `z_old = alpha_old(s) / alpha(t) z`;
    target and noise are the same, and the velocity is `alpha' u + sigma' eps` (Shaul et al. 2024;
    Lipman et al. 2024).

    The new span is that of the log-SNRs which both have. Where the new path reaches further than
    the old one, it is cut: the likelihood stays that of the old flow, and samples end with one
    evaluation of the target. Where it reaches less far, it begins with pure noise though the old flow
    has some data there, or leaves more noise on the data: as if it had been trained so.

    **Arguments:**

    - `flow`: the flow, whatever its prediction. The result calls its network once for each evaluation.
    - `path`: the new path.

    **Returns:** a flow, which takes the same conditions. It is for use: train the one it is made of.

    **Raises:** `ValueError` if the log-SNRs of the two paths have no range in common. To be called
    outside of `jax.jit`, for the span has to be known.
    """
    ends = [flow.path.gamma(jnp.asarray(t, float)) for t in flow.span]
    start, end = (float(_time_at(path, gamma, (0.0, 1.0))) for gamma in ends)
    if start >= end:
        raise ValueError(
            f"`path` has no log-SNR in common with the flow's, from {float(ends[0]):.3g} to {float(ends[1]):.3g}: "
            "give a path that passes through some of them"
        )
    prediction = _BothPrediction((start, end), flow.prediction)
    return Flow(
        _OtherPath(flow, path),
        path,
        prediction,
        shape=flow.shape,
        source=flow.source,
        coupling=flow.coupling,
        transform=flow.transform,
        encoder=flow.encoder,
    )


class _OtherPath(eqx.Module):
    """The network of a changed flow: the old flow's target and noise, one above the other."""

    flow: Flow
    path: AbstractPath

    def __call__(self, t: Time, z: Point, x: PyTree) -> Float[Array, "2 *shape"]:
        old, new = self.flow.path, self.path
        s = _time_at(old, new.gamma(t), self.flow.span)
        # The larger of the two coefficients: the other may be 0.
        noisy = new.alpha(t) < new.sigma(t)
        factor = jnp.where(noisy, old.sigma(s), old.alpha(s)) / jnp.where(noisy, new.sigma(t), new.alpha(t))
        estimate = self.flow.estimate(s, factor * z, x)
        return jnp.stack([estimate.target, estimate.noise])


class _BothPrediction(AbstractPrediction):
    """The network, a flow itself, returns target and noise, one above the other."""

    times: tuple[float, float] = eqx.field(static=True)
    old: AbstractPrediction

    @property
    def takes_embeddings(self) -> bool:
        return self.old.takes_embeddings

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return self.times

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        target, noise = output
        return Estimate(target, noise, derivative(path.alpha, t) * target + derivative(path.sigma, t) * noise)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return jnp.sum(jnp.square(output[0] - z1))

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.ones_like(path.alpha(t))

    def network_condition(self, condition: PyTree) -> PyTree:
        return condition

    def output_shape(self, shape: tuple[int, ...], condition: PyTree) -> tuple[int, ...]:
        return (2, *shape)


@eqx.filter_jit
def _time_at(path: AbstractPath, gamma: Scalar, span: tuple[float, float]) -> Scalar:
    """When, within `span`, a path has this log-SNR; the nearer end of the span if it never has."""
    start, end = (jnp.asarray(t, gamma.dtype) for t in span)
    if isinstance(path, CondOTPath):
        return jnp.clip(jax.nn.sigmoid(gamma / 2), start, end)

    def halve(_: Array, times: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        middle = sum(times) / 2
        above = path.gamma(middle) > gamma
        return jnp.where(above, times[0], middle), jnp.where(above, middle, times[1])

    # As many halvings as a time has digits.
    low, high = jax.lax.fori_loop(0, jnp.finfo(gamma.dtype).nmant + 2, halve, (start, end))
    return jnp.where(high < end, low, end)
