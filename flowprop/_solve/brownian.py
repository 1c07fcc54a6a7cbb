"""Brownian increments for solves that reject no steps."""

import math
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
from jaxtyping import PyTree

from .._types import Point, PRNGKey


class Increments(dfx.AbstractBrownianPath):
    """Independent increments of Brownian motion, each a function of the key and of the start and end of its step.

    If the steps are known in advance, these increments form a Brownian motion. A backward pass that takes the same
    steps again draws the same increments, so that a solve has reverse-mode derivatives. (Diffrax refuses such
    derivatives for its `UnsafeBrownianPath`, because it cannot know that the steps are the same. This class uses
    `UnsafeBrownianPath` to draw one increment.)

    **Arguments:**

    - `z`: an array of the shape and type of the increments.
    - `key`: the random key.
    - `levy_area`: the type of Levy area that the solver needs besides the increment.
    """

    t0: ClassVar[float] = -math.inf
    t1: ClassVar[float] = math.inf

    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    key: PRNGKey
    levy_area: Any = eqx.field(static=True)

    def __init__(self, z: Point, key: PRNGKey, levy_area: Any = dfx.BrownianIncrement) -> None:
        self.structure = jax.ShapeDtypeStruct(z.shape, z.dtype)
        self.key = key
        self.levy_area = levy_area

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> PyTree:
        t0, t1 = jax.lax.stop_gradient((t0, t1))
        return dfx.UnsafeBrownianPath(self.structure, self.key, self.levy_area).evaluate(t0, t1, left, use_levy)
