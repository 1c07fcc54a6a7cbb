"""Flows, generative and discriminative, on JAX, Equinox and Diffrax."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from . import data as data, metrics as metrics, nn as nn
from ._affine_path import (
    AffinePath as AffinePath,
    polynomial_path as polynomial_path,
    trigonometric_path as trigonometric_path,
    variance_exploding_path as variance_exploding_path,
)
from ._bits_per_dim import BitsPerDimension as BitsPerDimension, BitsPerDimensionResult as BitsPerDimensionResult
from ._change_of_path import change_path as change_path
from ._checkpoint import load as load, save as save
from ._class_log_prob import class_log_posterior as class_log_posterior, class_log_prob as class_log_prob
from ._classifier import Classifier as Classifier
from ._constructors import ct_flow as ct_flow, df_flow as df_flow, fm_flow as fm_flow
from ._coupling import (
    AbstractConditionCost as AbstractConditionCost,
    AbstractCoupling as AbstractCoupling,
    ClassCost as ClassCost,
    ConditionalOTCoupling as ConditionalOTCoupling,
    DistanceCost as DistanceCost,
    IndependentCoupling as IndependentCoupling,
    OTCoupling as OTCoupling,
    SinkhornCoupling as SinkhornCoupling,
)
from ._discrete import NoPropDT as NoPropDT
from ._distribution import FlowDistribution as FlowDistribution, as_distribution as as_distribution
from ._divergence import (
    AbstractDivergence as AbstractDivergence,
    AbstractProbes as AbstractProbes,
    ExactDivergence as ExactDivergence,
    GaussianProbes as GaussianProbes,
    HutchinsonDivergence as HutchinsonDivergence,
    HutchPlusPlusDivergence as HutchPlusPlusDivergence,
    OrthogonalProbes as OrthogonalProbes,
    RademacherProbes as RademacherProbes,
    SphereProbes as SphereProbes,
    XTraceDivergence as XTraceDivergence,
)
from ._embedding import (
    Embedding as Embedding,
    EmbeddingDiagnostics as EmbeddingDiagnostics,
    embedding_diagnostics as embedding_diagnostics,
    learned_embedding as learned_embedding,
    one_hot_embedding as one_hot_embedding,
    orthogonal_embedding as orthogonal_embedding,
)
from ._flow import Flow as Flow
from ._frozen import Frozen as Frozen, trainable as trainable
from ._given import given as given
from ._guidance import ConditionDropout as ConditionDropout, guide as guide
from ._importance import ImportanceWeights as ImportanceWeights, importance_weights as importance_weights
from ._log_prob import log_prob as log_prob
from ._log_prob_estimate import LogProbEstimate as LogProbEstimate, estimate_log_prob as estimate_log_prob
from ._maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from ._objective import (
    AbstractObjective as AbstractObjective,
    CrossEntropyObjective as CrossEntropyObjective,
    ELBOObjective as ELBOObjective,
    FlowMatchingObjective as FlowMatchingObjective,
    RegressionObjective as RegressionObjective,
)
from ._pairs import PairedFlow as PairedFlow, reflow_pairs as reflow_pairs
from ._path import AbstractPath as AbstractPath, CondOTPath as CondOTPath, Estimate as Estimate, VPPath as VPPath
from ._prediction import (
    AbstractPrediction as AbstractPrediction,
    CategoricalPrediction as CategoricalPrediction,
    EarlyStopPrediction as EarlyStopPrediction,
    NoisePrediction as NoisePrediction,
    PreconditionedPrediction as PreconditionedPrediction,
    TargetPrediction as TargetPrediction,
    VelocityPrediction as VelocityPrediction,
)
from ._prototypes import prototype_embedding as prototype_embedding
from ._readout import (
    AbstractReadout as AbstractReadout,
    LinearReadout as LinearReadout,
    NearestReadout as NearestReadout,
    RadialReadout as RadialReadout,
)
from ._reference import AdjointClassifier as AdjointClassifier, BackpropClassifier as BackpropClassifier
from ._regressor import Regressor as Regressor
from ._sample import sample as sample
from ._sample_log_prob import sample_and_log_prob as sample_and_log_prob
from ._schedule import (
    AbstractNoiseSchedule as AbstractNoiseSchedule,
    CosineNoiseSchedule as CosineNoiseSchedule,
    LearnableNoiseSchedule as LearnableNoiseSchedule,
    LinearNoiseSchedule as LinearNoiseSchedule,
    SigmoidNoiseSchedule as SigmoidNoiseSchedule,
)
from ._solve import (
    AbstractIntegrator as AbstractIntegrator,
    AbstractODEIntegrator as AbstractODEIntegrator,
    AncestralIntegrator as AncestralIntegrator,
    ODEIntegrator as ODEIntegrator,
    SDEIntegrator as SDEIntegrator,
    function_evaluations as function_evaluations,
    joint_norm as joint_norm,
    solve as solve,
)
from ._source import (
    AbstractSource as AbstractSource,
    DistributionSource as DistributionSource,
    EmpiricalSource as EmpiricalSource,
    GaussianSource as GaussianSource,
)
from ._time_sampling import (
    AbstractTimeSampling as AbstractTimeSampling,
    GridTimeSampling as GridTimeSampling,
    LogitNormalTimeSampling as LogitNormalTimeSampling,
    PowerTimeSampling as PowerTimeSampling,
    StratifiedTimeSampling as StratifiedTimeSampling,
    UniformTimeSampling as UniformTimeSampling,
)
from ._train import fit as fit
from ._transform import (
    AbstractBijectiveTransform as AbstractBijectiveTransform,
    AbstractTransform as AbstractTransform,
    Bounded as Bounded,
    Chain as Chain,
    Circular as Circular,
    Dequantise as Dequantise,
    IdentityTransform as IdentityTransform,
    OnColumns as OnColumns,
    Positive as Positive,
    Standardise as Standardise,
    Whiten as Whiten,
)
from ._unbounded_schedules import (
    CauchyNoiseSchedule as CauchyNoiseSchedule,
    ExponentialNoiseSchedule as ExponentialNoiseSchedule,
    LaplaceNoiseSchedule as LaplaceNoiseSchedule,
    QuadraticNoiseSchedule as QuadraticNoiseSchedule,
)
from ._weighting import (
    AbstractWeighting as AbstractWeighting,
    BatchNormalisedELBOWeighting as BatchNormalisedELBOWeighting,
    ELBOWeighting as ELBOWeighting,
    MinSNRWeighting as MinSNRWeighting,
    NormalisedELBOWeighting as NormalisedELBOWeighting,
    StepELBOWeighting as StepELBOWeighting,
    UniformWeighting as UniformWeighting,
)


if TYPE_CHECKING:
    from . import conformance as conformance, plot as plot

__version__ = version("flowprop")


def __getattr__(name: str) -> object:
    # Loaded when first asked for: figures need matplotlib, which the core does not, and checks are for tests.
    if name in ("conformance", "plot"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "conformance", "plot"])
