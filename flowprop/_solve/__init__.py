"""Integration of flows with Diffrax: integrators, solves, samples, and the cost of a solve.

Only this folder imports Diffrax.
"""

from .ancestral import AncestralIntegrator as AncestralIntegrator
from .count import function_evaluations as function_evaluations
from .integrator import (
    AbstractIntegrator as AbstractIntegrator,
    AbstractODEIntegrator as AbstractODEIntegrator,
    final_state as final_state,
    forward_mode_explained as forward_mode_explained,
    succeeded as succeeded,
)
from .joint import joint_norm as joint_norm
from .ode import ODEIntegrator as ODEIntegrator, label_integrator as label_integrator
from .sde import SDEIntegrator as SDEIntegrator
from .solve import (
    solve as solve,
    solve_to_data as solve_to_data,
    to_end_of_path as to_end_of_path,
)
