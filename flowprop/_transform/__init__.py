"""Transforms: invertible maps from data in the user's units to the coordinates of a flow."""

from .bijection import Bijection as Bijection, as_transform as as_transform
from .bounded import Bounded as Bounded
from .chain import Chain as Chain
from .circular import Circular as Circular
from .columns import OnColumns as OnColumns
from .dequantise import Dequantise as Dequantise
from .positive import Positive as Positive
from .standardise import Standardise as Standardise
from .transform import (
    AbstractBijectiveTransform as AbstractBijectiveTransform,
    AbstractTransform as AbstractTransform,
    IdentityTransform as IdentityTransform,
    log_sum_over_preimages as log_sum_over_preimages,
)
from .whiten import Whiten as Whiten
