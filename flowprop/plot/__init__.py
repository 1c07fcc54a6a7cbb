"""Figures to look at, and to put in a paper.

They draw arrays and functions, never flows: what a figure shows is computed where its question was
asked. Each draws on the axes it is given, or on a new figure of its own, and returns them. None
touches pyplot, global settings or the screen: `save` writes the figure; a notebook shows it where a
cell ends with it (`ax.figure`).
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        '`flowprop.plot` draws by matplotlib, which is not installed: `pip install "flowprop[plot]"`'
    ) from error

from ._accuracy_against_time import accuracy_against_time as accuracy_against_time
from ._calibration import coverage_curve as coverage_curve
from ._confusion_matrix import confusion_matrix as confusion_matrix
from ._density import density_2d as density_2d
from ._density_and_samples import density_and_samples as density_and_samples
from ._error_against_cost import error_against_cost as error_against_cost
from ._grid import Bounds as Bounds, grid_points as grid_points
from ._image_grid import image_grid as image_grid
from ._label_trajectories import label_trajectories as label_trajectories
from ._learning_curve import learning_curve as learning_curve
from ._save import save as save
from ._solver_sweep import solver_sweep as solver_sweep
from ._trajectories import trajectories as trajectories
