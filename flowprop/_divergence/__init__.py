"""The divergence of a vector field: the trace of its Jacobian, exact or estimated by random probes."""

from ._divergence import AbstractDivergence as AbstractDivergence, ExactDivergence as ExactDivergence
from ._hutch_plus_plus import HutchPlusPlusDivergence as HutchPlusPlusDivergence
from ._hutchinson import HutchinsonDivergence as HutchinsonDivergence
from ._probes import (
    AbstractProbes as AbstractProbes,
    GaussianProbes as GaussianProbes,
    OrthogonalProbes as OrthogonalProbes,
    Probes as Probes,
    RademacherProbes as RademacherProbes,
    SphereProbes as SphereProbes,
)
from ._xtrace import XTraceDivergence as XTraceDivergence
