"""Figures for notebooks and papers.

The functions draw arrays and callables, not flows: compute what you want to show first. Each function draws on the
given axes or on a new figure, and returns the axes or the figure. No function uses pyplot, changes global settings or
opens a window. [`flowprop.plot.save`][] writes a figure to a file. A notebook shows a figure that is the last value of
a cell (`ax.figure`).
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        '`flowprop.plot` needs matplotlib, which is not installed: `pip install "flowprop[plot]"`'
    ) from error

from ._accuracy_against_time import accuracy_against_time as accuracy_against_time
from ._calibration import coverage_curve as coverage_curve
from ._confusion_matrix import confusion_matrix as confusion_matrix
from ._coverage import coverage as coverage
from ._density import density_2d as density_2d
from ._density_and_samples import density_and_samples as density_and_samples
from ._error_against_cost import error_against_cost as error_against_cost
from ._grid import Bounds as Bounds, grid_points as grid_points
from ._image_grid import image_grid as image_grid
from ._label_trajectories import label_trajectories as label_trajectories
from ._learning_curve import learning_curve as learning_curve
from ._local_c2st import local_c2st as local_c2st
from ._pairs import pairs as pairs
from ._predictive import predictive as predictive
from ._save import save as save
from ._sbc import sbc as sbc
from ._solver_sweep import solver_sweep as solver_sweep
from ._trajectories import trajectories as trajectories
