"""The steps of a solve: lists of times, and controllers with finer steps."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._types import Scalar, is_traced


Controller = dfx.AbstractStepSizeController


def has_grid(controller: Controller) -> bool:
    """Whether a controller, or one that it wraps, lists the times to step to. Diffrax then takes no first step size."""
    return any(_is_grid(part) for part in jax.tree.leaves(controller, is_leaf=_is_grid))


def on_grid(controller: Controller) -> Controller:
    """Return `controller` with lists of times that work in both directions, for a solve over any part of the list."""
    return _replace(controller, _is_grid, lambda grid: _GridSteps(jnp.sort(grid.ts)))


def check_grid(controller: Controller) -> None:
    """Raise a `ValueError` for a list of times that neither rises nor falls, or that is not within [0, 1]."""
    for part in jax.tree.leaves(controller, is_leaf=_is_grid):
        if not _is_grid(part) or is_traced(part):
            continue
        times = np.asarray(part.ts, float)
        steps = np.diff(times)
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise ValueError("`stepsize_controller` has `ts` that neither rise nor fall: give each time once, in order")
        if times.min() < 0 or times.max() > 1:
            raise ValueError(
                f"`stepsize_controller` has `ts` from {times.min():g} to {times.max():g}: give times of the flow, "
                "which lie in [0, 1]"
            )


def refined(controller: Controller) -> Controller | None:
    """Return `controller` with a tenth of its tolerances and half the steps of a list; `None` if it has neither."""
    parts = jax.tree.leaves(controller, is_leaf=lambda part: _is_grid(part) or _has_tolerances(part))
    if not any(_is_grid(part) or _has_tolerances(part) for part in parts):
        return None
    controller = _replace(controller, _is_grid, lambda grid: dfx.StepTo(ts=_with_midpoints(grid.ts)))
    return _replace(
        controller,
        _has_tolerances,
        lambda part: eqx.tree_at(lambda part: (part.rtol, part.atol), part, (part.rtol / 10, part.atol / 10)),
    )


def _is_grid(part: Any) -> bool:
    return isinstance(part, dfx.StepTo)


def _has_tolerances(part: Any) -> bool:
    """Whether `part` is an adaptive controller with tolerances of its own, not only those of a controller it wraps."""
    if not isinstance(part, dfx.AbstractAdaptiveStepSizeController):
        return False
    return {"rtol", "atol"} <= {field.name for field in fields(cast(Any, part))}


def _replace(controller: Controller, which: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    return jax.tree.map(lambda part: change(part) if which(part) else part, controller, is_leaf=which)


def _with_midpoints(times: Float[Array, " times"]) -> Float[Array, " more"]:
    pairs = jnp.stack([times[:-1], (times[:-1] + times[1:]) / 2], axis=1)
    return jnp.append(pairs.ravel(), times[-1])


#: The index of the next time, and the time of the end of the solve.
_State = tuple[Array, Scalar]


class _GridSteps(dfx.AbstractStepSizeController[_State, None]):
    """Steps to the given times that lie between the start and the end of a solve, and then to the end.

    Diffrax's own `StepTo` needs a list that begins and ends with the solve and has its direction.
    """

    times: Float[Array, " times"]

    def wrap(self, direction: Any) -> "_GridSteps":
        return _GridSteps(jnp.sort(self.times * direction))

    def init(
        self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, dt0: None, args: PyTree, func: Any, error_order: Any
    ) -> tuple[Any, _State]:
        index = jnp.searchsorted(self.times, t0 + _rounding(t0), side="right")
        return self._time(index, t1), (index, t1)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: _State,
    ) -> tuple[bool, Any, Any, bool, _State, dfx.RESULTS]:
        index, end = controller_state
        successful: Any = dfx.RESULTS.successful
        return True, t1, self._time(index + 1, end), False, (index + 1, end), successful

    def _time(self, index: Array, end: Scalar) -> Scalar:
        """The time at `index`, or the end of the solve if that comes first."""
        time = self.times[jnp.minimum(index, len(self.times) - 1)].astype(end.dtype)
        return jnp.where((index < len(self.times)) & (time < end - _rounding(end)), time, end)


def _rounding(time: Scalar) -> float:
    """The distance below which two times count as equal.

    For example, a list that ends at 0.99 in another precision ends together with a span that ends at 0.99.
    """
    return 8 * float(jnp.finfo(time.dtype).eps)
