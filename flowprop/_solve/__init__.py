"""Integrating a flow with Diffrax: how, from where to where, and at what cost.

The only room that knows Diffrax.
"""

from ._ancestral import AncestralIntegrator as AncestralIntegrator
from ._count import function_evaluations as function_evaluations
from ._integrator import (
    AbstractIntegrator as AbstractIntegrator,
    AbstractODEIntegrator as AbstractODEIntegrator,
    end_state as end_state,
    forward_mode_explained as forward_mode_explained,
    succeeded as succeeded,
)
from ._joint import joint_norm as joint_norm
from ._ode import ODEIntegrator as ODEIntegrator, label_integrator as label_integrator
from ._sde import SDEIntegrator as SDEIntegrator
from ._solve import arrive as arrive, carry as carry, solve as solve, transport as transport
