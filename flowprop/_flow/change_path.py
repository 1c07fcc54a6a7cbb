"""A trained flow, used along another path."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._loss.time_sampling import StratifiedTimeSampling
from .._loss.weighting import UniformWeighting
from .._path.path import AbstractPath, Estimate
from .._path.prediction import AbstractPrediction
from .._path.span import derivative
from .._types import Point, Scalar, Time, Times, checked
from .flow import Flow


@checked
def change_path(flow: Flow, path: AbstractPath) -> Flow:
    """A trained flow along another path or schedule: exact, and without training.

    If two paths have the same log-SNR, their points differ by a factor only. At time `t` of the new path, the old time
    `s` is the solution of `gamma_old(s) = gamma(t)`, and `z_old = alpha_old(s) / alpha(t) z`. Target and noise are the
    same, and the velocity is `alpha' u + sigma' eps` ([Shaul et al. 2024](https://arxiv.org/abs/2310.19075); [Lipman et
    al. 2024](https://arxiv.org/abs/2412.06264)). Other name: scale-time transformation, post-training scheduler change.

    The span of the new flow is where both paths have the log-SNR. If the log-SNRs of the new path have a wider range
    than those of the old one, the new path is cut: the likelihood is that of the old flow, and samples end with one
    evaluation of the target. If the range is narrower at the start, the new flow starts from pure noise where the old
    flow has some signal. If it is narrower at the end, more noise is left on the data, as if the flow had been trained
    in this way.

    **Arguments:**

    - `flow`: a trained flow, with any prediction. The new flow calls its network once for each evaluation.
    - `path`: the new path.

    **Returns:** a flow that takes the same conditions. Use it for sampling and likelihoods only: train the original
    flow.

    **Raises:** `ValueError` if the log-SNRs of the two paths have no range in common. Call `change_path` outside
    `jax.jit`, because the span has to be known.

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,))
    changed = fp.change_path(flow, fp.VPPath(fp.SigmoidNoiseSchedule()))
    print(changed.span)  # (0.0, 1.0)
    # At t = 0.5 both paths have the log-SNR 0. Their points differ by the factor sqrt(2).
    print(flow.target(0.5, jnp.ones(2)).round(4))  # [0.5 0.5]
    print(changed.target(0.5, jnp.sqrt(2) * jnp.ones(2)).round(4))  # [0.5 0.5]
    ```
    """
    ends = [flow.path.gamma(jnp.asarray(t, float)) for t in flow.span]
    start, end = (float(path.time_at(gamma, path.span)) for gamma in ends)
    if start >= end:
        raise ValueError(
            f"`path` has no log-SNR in common with the flow, whose log-SNRs are from {float(ends[0]):.3g} to "
            f"{float(ends[1]):.3g}: give a path with some of these log-SNRs"
        )
    prediction = _BothPrediction((start, end), flow.prediction)
    return dataclasses.replace(
        flow,
        network=_OtherPath(flow, path),
        path=path,
        prediction=prediction,
        # A weighting or time sampling that fits the old path may not fit the new one.
        weighting=UniformWeighting(),
        time_sampling=StratifiedTimeSampling(),
        end=None,  # the span of the new prediction ends there
    )


class _OtherPath(eqx.Module):
    """The network of a changed flow: it returns the old flow's target and noise, stacked."""

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
    """The prediction of a changed flow: the network returns target and noise, stacked."""

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

    def interface(self, shape: tuple[int, ...], condition: PyTree) -> tuple[PyTree, tuple[int, ...]]:
        return condition, (2, *shape)
