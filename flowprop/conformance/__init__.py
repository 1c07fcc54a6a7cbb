"""Conformance tests: checks that a flow library, this one or another, computes the right numbers.

The name of a check is a claim, such as `VelocityIsExact`. You give each check the few callables that it needs, from the
library under test (the *subject*). Leave out the checks of features that the library does not have. Each check measures
one number and reports the range in which this number must lie.

The data are gaussians, gaussian mixtures and labels, so every quantity has a known value. The subject uses the exact
network ([`flowprop.conformance.Exact`][]) instead of a trained one. An error then comes from the library and not from
training.

```python
import equinox as eqx
import flowprop as fp
import jax

path, data = fp.CondOTPath(), fp.conformance.GAUSSIAN
flow = fp.conformance.exact_flow(data, path, fp.VelocityPrediction())
exact = fp.conformance.Exact(data, path)
check = fp.conformance.VelocityIsExact(exact, eqx.filter_jit(flow.velocity))
fp.conformance.assert_conforms([check], key=jax.random.key(0))
```
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
