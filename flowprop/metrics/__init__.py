"""Metrics of a flow: distances between samples, the energy of its paths, and the calibration of its densities.

A sample is an array whose first axis counts the points. The points may have any shape.
"""

from ._classifier_test import TwoSampleTest as TwoSampleTest, classifier_two_sample_test as classifier_two_sample_test
from ._coverage import (
    CoverageCurve as CoverageCurve,
    calibration_error as calibration_error,
    coverage as coverage,
    coverage_curve as coverage_curve,
)
from ._expected_coverage import expected_coverage as expected_coverage
from ._local_classifier_test import LocalTwoSampleTest as LocalTwoSampleTest, local_c2st as local_c2st
from ._mmd import mmd as mmd
from ._path_energy import normalised_path_energy as normalised_path_energy, path_energy as path_energy
from ._posterior import PosteriorLike as PosteriorLike
from ._posterior_predictive import (
    PredictiveCheck as PredictiveCheck,
    posterior_predictive_check as posterior_predictive_check,
)
from ._sbc import sbc as sbc
from ._sliced_wasserstein import sliced_wasserstein as sliced_wasserstein
from ._tarp import tarp as tarp
from ._two_densities import (
    MeanEstimate as MeanEstimate,
    bayes_accuracy as bayes_accuracy,
    kl_divergence as kl_divergence,
)
from ._uniform_ranks import CalibrationTest as CalibrationTest
from ._wasserstein import wasserstein as wasserstein
