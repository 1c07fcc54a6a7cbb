"""The usual flows: flow matching, target prediction, noise prediction."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from ._coupling import AbstractCoupling
from ._flow import Flow, Network
from ._path import CondOTPath, VPPath
from ._prediction import AbstractPrediction, NoisePrediction, TargetPrediction, VelocityPrediction
from ._schedule import AbstractNoiseSchedule, SigmoidNoiseSchedule
from ._source import AbstractSource
from ._time_sampling import AbstractTimeSampling
from ._transform import AbstractTransform, Bijection
from ._types import checked
from ._weighting import AbstractWeighting, ELBOWeighting, UniformWeighting


@checked
def fm_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    source: AbstractSource | None = None,
    coupling: AbstractCoupling | None = None,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
) -> Flow:
    """Flow matching: the straight path, velocity prediction, weight 1.

    (Lipman et al. 2023, [arXiv:2210.02747](https://arxiv.org/abs/2210.02747).)

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example. It returns an array of `z`'s shape.
    - `shape`: the shape of one example.
    - `weighting`: of the error over time. By default 1.
    - `time_sampling`: of the times in a batch. By default stratified, uniform over the span.
    - `source`: of `z_0`. By default `N(0, I)`.
    - `coupling`: how noise and data are paired in training. By default independently.
    - `transform`: from the data's units to the path's coordinates, such as `fp.Standardise.fit(points)`. By default
      none.
    - `encoder`: a callable on one condition, trained along and called once for a solve. By default none.

    **Returns:** the flow.

    **Raises:** the errors of [`flowprop.Flow`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=64, depth=2, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    ```
    """
    return Flow(
        network,
        CondOTPath(),
        VelocityPrediction(),
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        source=source,
        coupling=coupling,
        transform=transform,
        encoder=encoder,
    )


@checked
def ct_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    schedule: AbstractNoiseSchedule | None = None,
    prediction: AbstractPrediction | None = None,
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    coupling: AbstractCoupling | None = None,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
) -> Flow:
    """Continuous-time diffusion: the variance-preserving path, target prediction (NoProp-CT).

    (NoProp, [arXiv:2503.24322](https://arxiv.org/abs/2503.24322), algorithm 2.) For densities,
    `prediction=fp.PreconditionedPrediction(data_std=...)` learns far better than the plain target.

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example. It returns an array of `z`'s shape, or logits for a
      [`flowprop.CategoricalPrediction`][].
    - `shape`: the shape of one example.
    - `schedule`: the log-SNR. By default [`flowprop.SigmoidNoiseSchedule`][]`(13.)`.
    - `prediction`: what the network's output means. By default [`flowprop.TargetPrediction`][].
    - `weighting`: by default the evidence lower bound's `SNR'(t)/2` for a prediction whose errors are in the target's
      units (a target, plain or categorical, on any span), and 1 for any other.
    - `time_sampling`: of the times in a batch. By default stratified, uniform over the span.
    - `coupling`: how noise and data are paired in training. By default independently.
    - `transform`: from the data's units to the path's coordinates, such as `fp.Standardise.fit(points)`. By default
      none.
    - `encoder`: a callable on one condition, trained along and called once for a solve. By default none.

    **Returns:** the flow.

    **Raises:** the errors of [`flowprop.Flow`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=64, depth=2, key=jax.random.key(0))
    flow = fp.ct_flow(network, shape=(2,), prediction=fp.PreconditionedPrediction(data_std=0.7))
    ```
    """
    schedule = SigmoidNoiseSchedule() if schedule is None else schedule
    prediction = TargetPrediction() if prediction is None else prediction
    path = VPPath(schedule)
    if weighting is None:
        weighting = ELBOWeighting() if prediction.is_in_target_units(path) else UniformWeighting()
    return Flow(
        network,
        path,
        prediction,
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        coupling=coupling,
        transform=transform,
        encoder=encoder,
    )


@checked
def df_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    schedule: AbstractNoiseSchedule | None = None,
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    coupling: AbstractCoupling | None = None,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
) -> Flow:
    """Denoising diffusion: the variance-preserving path, noise prediction, weight 1.

    (Ho et al. 2020, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239), eq. 14.) `weighting=fp.ELBOWeighting()` gives
    `gamma'/2`.

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example. It returns an array of `z`'s shape.
    - `shape`: the shape of one example.
    - `schedule`: the log-SNR. By default [`flowprop.SigmoidNoiseSchedule`][]`(13.)`.
    - `weighting`: of the error over time. By default 1.
    - `time_sampling`: of the times in a batch. By default stratified, uniform over the span.
    - `coupling`: how noise and data are paired in training. By default independently.
    - `transform`: from the data's units to the path's coordinates, such as `fp.Standardise.fit(points)`. By default
      none.
    - `encoder`: a callable on one condition, trained along and called once for a solve. By default none.

    **Returns:** the flow.

    **Raises:** the errors of [`flowprop.Flow`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=64, depth=2, key=jax.random.key(0))
    flow = fp.df_flow(network, shape=(2,), schedule=fp.CosineNoiseSchedule())
    ```
    """
    schedule = SigmoidNoiseSchedule() if schedule is None else schedule
    return Flow(
        network,
        VPPath(schedule),
        NoisePrediction(),
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        coupling=coupling,
        transform=transform,
        encoder=encoder,
    )
