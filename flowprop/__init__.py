"""Flows, generative and discriminative, on JAX, Equinox and Diffrax.

Where to look: `_path` paths, noise schedules, predictions, sources; `_loss` times, weights, couplings (optimal
transport); `_transform` the data's units; `_flow` the flow itself; `_divergence` traces; `_solve` integrators and
samples; `_likelihood` everything that computes log p; `_labels` classifiers and NoProp; `_train` `fit`; `_checkpoint`
files; `_posterior` posteriors; `nn`, `data`, `metrics`, `plot` and `conformance` what stands around the core.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from . import data as data, metrics as metrics, nn as nn
from ._checkpoint import ModelInfo as ModelInfo, load as load, model_info as model_info, save as save
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
from ._flow.change_path import change_path as change_path
from ._flow.constructors import ct_flow as ct_flow, df_flow as df_flow, fm_flow as fm_flow
from ._flow.flow import Flow as Flow
from ._flow.given import given as given
from ._flow.guide import guide as guide
from ._frozen import Frozen as Frozen, trainable as trainable
from ._labels.baselines import AdjointClassifier as AdjointClassifier, BackpropClassifier as BackpropClassifier
from ._labels.categorical import CategoricalPrediction as CategoricalPrediction
from ._labels.classifier import Classifier as Classifier
from ._labels.embedding import (
    Embedding as Embedding,
    learned_embedding as learned_embedding,
    one_hot_embedding as one_hot_embedding,
    orthogonal_embedding as orthogonal_embedding,
)
from ._labels.embedding_diagnostics import (
    EmbeddingDiagnostics as EmbeddingDiagnostics,
    embedding_diagnostics as embedding_diagnostics,
)
from ._labels.noprop_dt import NoPropDT as NoPropDT
from ._labels.objective import (
    AbstractObjective as AbstractObjective,
    CrossEntropyObjective as CrossEntropyObjective,
    ELBOObjective as ELBOObjective,
    FlowMatchingObjective as FlowMatchingObjective,
    RegressionObjective as RegressionObjective,
)
from ._labels.prototypes import prototype_embedding as prototype_embedding
from ._labels.readout import (
    AbstractReadout as AbstractReadout,
    LinearReadout as LinearReadout,
    NearestReadout as NearestReadout,
    RadialReadout as RadialReadout,
)
from ._labels.regressor import Regressor as Regressor
from ._likelihood.bits_per_dim import (
    BitsPerDimension as BitsPerDimension,
    BitsPerDimensionResult as BitsPerDimensionResult,
)
from ._likelihood.class_log_prob import class_log_posterior as class_log_posterior, class_log_prob as class_log_prob
from ._likelihood.distribution import FlowDistribution as FlowDistribution, as_distribution as as_distribution
from ._likelihood.estimate_log_prob import LogProbEstimate as LogProbEstimate, estimate_log_prob as estimate_log_prob
from ._likelihood.importance_weights import (
    ImportanceWeights as ImportanceWeights,
    importance_weights as importance_weights,
)
from ._likelihood.log_prob import log_prob as log_prob
from ._likelihood.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from ._likelihood.sample_and_log_prob import sample_and_log_prob as sample_and_log_prob
from ._loss.condition_cost import (
    AbstractConditionCost as AbstractConditionCost,
    ClassCost as ClassCost,
    DistanceCost as DistanceCost,
)
from ._loss.coupling import (
    AbstractCoupling as AbstractCoupling,
    ConditionalOTCoupling as ConditionalOTCoupling,
    IndependentCoupling as IndependentCoupling,
    OTCoupling as OTCoupling,
    SinkhornCoupling as SinkhornCoupling,
)
from ._loss.time_sampling import (
    AbstractTimeSampling as AbstractTimeSampling,
    GridTimeSampling as GridTimeSampling,
    LogitNormalTimeSampling as LogitNormalTimeSampling,
    PowerTimeSampling as PowerTimeSampling,
    StratifiedTimeSampling as StratifiedTimeSampling,
    UniformTimeSampling as UniformTimeSampling,
)
from ._loss.weighting import (
    AbstractWeighting as AbstractWeighting,
    BatchNormalisedELBOWeighting as BatchNormalisedELBOWeighting,
    ELBOWeighting as ELBOWeighting,
    MinSNRWeighting as MinSNRWeighting,
    NormalisedELBOWeighting as NormalisedELBOWeighting,
    StepELBOWeighting as StepELBOWeighting,
    UniformWeighting as UniformWeighting,
)
from ._path.affine_path import (
    AffinePath as AffinePath,
    polynomial_path as polynomial_path,
    trigonometric_path as trigonometric_path,
    variance_exploding_path as variance_exploding_path,
)
from ._path.early_stop import EarlyStopPrediction as EarlyStopPrediction
from ._path.learnable_schedule import LearnableNoiseSchedule as LearnableNoiseSchedule
from ._path.path import AbstractPath as AbstractPath, Estimate as Estimate
from ._path.prediction import (
    AbstractPrediction as AbstractPrediction,
    NoisePrediction as NoisePrediction,
    PreconditionedPrediction as PreconditionedPrediction,
    TargetPrediction as TargetPrediction,
    VelocityPrediction as VelocityPrediction,
)
from ._path.schedule import (
    AbstractNoiseSchedule as AbstractNoiseSchedule,
    CosineNoiseSchedule as CosineNoiseSchedule,
    LinearNoiseSchedule as LinearNoiseSchedule,
    SigmoidNoiseSchedule as SigmoidNoiseSchedule,
)
from ._path.source import (
    AbstractSource as AbstractSource,
    DistributionSource as DistributionSource,
    EmpiricalSource as EmpiricalSource,
    GaussianSource as GaussianSource,
)
from ._path.straight_path import CondOTPath as CondOTPath
from ._path.unbounded_schedules import (
    CauchyNoiseSchedule as CauchyNoiseSchedule,
    ExponentialNoiseSchedule as ExponentialNoiseSchedule,
    LaplaceNoiseSchedule as LaplaceNoiseSchedule,
    QuadraticNoiseSchedule as QuadraticNoiseSchedule,
)
from ._path.vp_path import VPPath as VPPath
from ._posterior.acceptance import Acceptance as Acceptance
from ._posterior.ensemble import FlowEnsemble as FlowEnsemble
from ._posterior.fit_posterior import fit_posterior as fit_posterior
from ._posterior.given_all import given_all as given_all
from ._posterior.guide_by_likelihood import guide_by_likelihood as guide_by_likelihood
from ._posterior.posterior import Posterior as Posterior
from ._posterior.posterior_log_prob import PosteriorLogProb as PosteriorLogProb
from ._posterior.prior import BoxUniform as BoxUniform, Prior as Prior
from ._posterior.resample import resample as resample
from ._posterior.rounds import fit_posterior_rounds as fit_posterior_rounds
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
from ._solve.reflow import reflow_pairs as reflow_pairs
from ._solve.sample import sample as sample
from ._train.condition_dropout import ConditionDropout as ConditionDropout
from ._train.fit import fit as fit
from ._train.fit_density import fit_density as fit_density
from ._train.history import FitState as FitState, History as History, Report as Report
from ._train.paired_flow import PairedFlow as PairedFlow
from ._train.run import NonFiniteLossError as NonFiniteLossError
from ._train.schedule import warmup_cosine as warmup_cosine
from ._train.step import TrainState as TrainState
from ._train.tensorboard import TensorBoard as TensorBoard
from ._train.trainer import Trainer as Trainer
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
