"""A trained flow along another path."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._flow import Flow
from ._path import AbstractPath, Estimate, derivative
from ._prediction import AbstractPrediction
from ._time_sampling import StratifiedTimeSampling
from ._types import Point, Scalar, Time, Times, checked
from ._weighting import UniformWeighting


@checked
def change_path(flow: Flow, path: AbstractPath) -> Flow:
    """A trained flow along another path or schedule: exact, and without training.

    If two paths have the same log-SNR, their points differ by a factor. At time `t` of the new path,
    `gamma_old(s) = gamma(t)` gives the old time `s`, and `z_old = alpha_old(s) / alpha(t) z`. Target and noise are the
    same, and the velocity is `alpha' u + sigma' eps` (Shaul et al. 2024,
    [arXiv:2310.19075](https://arxiv.org/abs/2310.19075); Lipman et al. 2024,
    [arXiv:2412.06264](https://arxiv.org/abs/2412.06264)).

    The new span is that of the log-SNRs which both paths have. If the new path reaches further than the old one, it
    is cut: the likelihood stays that of the old flow, and samples end with one evaluation of the target. If it
    reaches less far, it begins with pure noise though the old flow has some data there, or it leaves more noise on
    the data, as if it had been trained so.

    **Arguments:**

    - `flow`: the flow, of any prediction. The result calls its network once for each evaluation.
    - `path`: the new path.

    **Returns:** a flow, which takes the same conditions. It is for use only: train the original flow.

    **Raises:** `ValueError` if the log-SNRs of the two paths have no range in common. Call it outside of `jax.jit`,
    because the span has to be known.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,))
    changed = fp.change_path(flow, fp.VPPath(fp.SigmoidNoiseSchedule()))
    ```
    """
    ends = [flow.path.gamma(jnp.asarray(t, float)) for t in flow.span]
    start, end = (float(path.time_at(gamma, path.span)) for gamma in ends)
    if start >= end:
        raise ValueError(
            f"`path` has no log-SNR in common with the flow's, from {float(ends[0]):.3g} to {float(ends[1]):.3g}: "
            "give a path that passes through some of them"
        )
    prediction = _BothPrediction((start, end), flow.prediction)
    return dataclasses.replace(
        flow,
        network=_OtherPath(flow, path),
        path=path,
        prediction=prediction,
        # A weighting or sampling that suits the old path may not suit the new one.
        weighting=UniformWeighting(),
        time_sampling=StratifiedTimeSampling(),
    )


class _OtherPath(eqx.Module):
    """The network of a changed flow: the old flow's target and noise, one above the other."""

    flow: Flow
    path: AbstractPath

    def __call__(self, t: Time, z: Point, x: PyTree) -> Float[Array, "2 *shape"]:
        old, new = self.flow.path, self.path
        s = old.time_at(new.gamma(t), self.flow.span)
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
