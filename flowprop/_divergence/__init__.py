"""The divergence of a vector field: the trace of its Jacobian, exact or estimated by random probes."""

from .divergence import AbstractDivergence as AbstractDivergence, ExactDivergence as ExactDivergence
from .hutch_plus_plus import HutchPlusPlusDivergence as HutchPlusPlusDivergence
from .hutchinson import HutchinsonDivergence as HutchinsonDivergence
from .probes import (
    AbstractProbes as AbstractProbes,
    GaussianProbes as GaussianProbes,
    OrthogonalProbes as OrthogonalProbes,
    Probes as Probes,
    RademacherProbes as RademacherProbes,
    SphereProbes as SphereProbes,
)
from .xtrace import XTraceDivergence as XTraceDivergence
