"""Conformance: what any flow must get right, as checks to run on it.

A check is a claim, which is its name. It is given the few callables that it looks at and no more: what a library does
not offer is left out of the list. It measures one number, and says where that had to lie.

The data are gaussians and mixtures, and labels, of which everything is known. In place of a trained network the subject
is given the exact one ([`flowprop.conformance.Exact`][]), so that what remains to be wrong is the library.
"""

from ._check import (
    AbstractCheck as AbstractCheck,
    Report as Report,
    assert_conforms as assert_conforms,
    run as run,
    table as table,
)
from ._classification import (
    ClassesAreFound as ClassesAreFound,
    EncoderRunsOnce as EncoderRunsOnce,
    LabelsAreUnseen as LabelsAreUnseen,
    RaggedBatchesShareAProgram as RaggedBatchesShareAProgram,
    ReadoutIsBlind as ReadoutIsBlind,
)
from ._exact import Exact as Exact, Fields as Fields, GaussianPath as GaussianPath
from ._fields import (
    NoiseIsExact as NoiseIsExact,
    ScoreIsExact as ScoreIsExact,
    TargetIsExact as TargetIsExact,
    VelocityIsExact as VelocityIsExact,
)
from ._flows import (
    Denoiser as Denoiser,
    exact_flow as exact_flow,
    field_checks as field_checks,
    solve_checks as solve_checks,
)
from ._imports import ImportsAreDeclared as ImportsAreDeclared
from ._labels import ClassPosterior as ClassPosterior, labelled_inputs as labelled_inputs
from ._likelihood import BitsArePerDimension as BitsArePerDimension, LogProbIsExact as LogProbIsExact
from ._mixture import GAUSSIAN as GAUSSIAN, MIXTURE as MIXTURE, Mixture as Mixture, gaussian as gaussian
from ._pickles import PicklesAreRefused as PicklesAreRefused
from ._probes import ProbesAreAveraged as ProbesAreAveraged, ProbesAreHeld as ProbesAreHeld
from ._sampling import EndPointsAreExact as EndPointsAreExact, SamplesHaveMoments as SamplesHaveMoments
from ._schedules import ScheduleMeetsItsEnds as ScheduleMeetsItsEnds, ScheduleRises as ScheduleRises
from ._solvers import (
    EvaluationsAreCounted as EvaluationsAreCounted,
    SolverHasOrder as SolverHasOrder,
    ToleranceIsHeeded as ToleranceIsHeeded,
)
from ._time_features import TimesAreToldApart as TimesAreToldApart
