"""The usual flows: flow matching, target prediction, noise prediction."""

from ._coupling import AbstractCoupling
from ._flow import Flow, Network
from ._path import CondOTPath, VPPath
from ._prediction import (
    AbstractPrediction,
    CategoricalPrediction,
    NoisePrediction,
    TargetPrediction,
    VelocityPrediction,
)
from ._schedule import AbstractNoiseSchedule, SigmoidNoiseSchedule
from ._source import AbstractSource
from ._types import checked
from ._weighting import AbstractTimeSampling, AbstractWeighting, ELBOWeighting, UniformWeighting


@checked
def fm_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    source: AbstractSource | None = None,
    coupling: AbstractCoupling | None = None,
) -> Flow:
    """Flow matching: the straight path, velocity prediction, weight 1 (Lipman et al. 2023).

    **Arguments:** as of [`flowprop.Flow`][].

    **Returns:** the flow.
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
) -> Flow:
    """Continuous-time diffusion: the variance-preserving path, target prediction (NoProp-CT).

    For densities, `prediction=fp.PreconditionedPrediction(data_std=...)` learns far better than
    the plain target.

    **Arguments:** as of [`flowprop.Flow`][], and

    - `schedule`: the log-SNR. By default [`flowprop.SigmoidNoiseSchedule`][]`(13.)`.
    - `prediction`: by default [`flowprop.TargetPrediction`][].
    - `weighting`: by default the evidence lower bound's `SNR'(t)/2` for a target, plain or categorical,
      and 1, in the units of the network's output, for any other prediction.

    **Returns:** the flow.
    """
    schedule = SigmoidNoiseSchedule() if schedule is None else schedule
    prediction = TargetPrediction() if prediction is None else prediction
    if weighting is None:
        of_target = isinstance(prediction, TargetPrediction | CategoricalPrediction)
        weighting = ELBOWeighting() if of_target else UniformWeighting()
    return Flow(
        network,
        VPPath(schedule),
        prediction,
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        coupling=coupling,
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
) -> Flow:
    """Denoising diffusion: the variance-preserving path, noise prediction, weight 1 (Ho et al. 2020).

    `weighting=fp.ELBOWeighting()` gives `gamma'/2`.

    **Arguments:** as of [`flowprop.ct_flow`][].

    **Returns:** the flow.
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
    )
