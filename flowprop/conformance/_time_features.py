"""Checks of what a network is told of the time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._types import PRNGKey, checked
from ._check import AbstractCheck, Report


@checked
@dataclass(frozen=True)
class TimesAreToldApart(AbstractCheck):
    """The fastest of the time features goes through at least one period over [0, 1].

    Frequencies that were made for the integers of a sequence stay far below it there.

    **Arguments:**

    - `features`: the subject's, a callable `features(t)` from one time to a vector.
    """

    features: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        values = np.array([np.ravel(self.features(jnp.asarray(t, float))) for t in np.linspace(0, 1, 100)], float)
        way, height = np.abs(np.diff(values, axis=0)).sum(axis=0), np.ptp(values, axis=0)
        # A period goes twice through the height. A feature that is constant, or all but, has none.
        periods = np.max(way / np.maximum(2 * height, 1e-6))
        return self.report("periods of the fastest feature", periods, least=0.99)
