"""What a training leaves behind beside the model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from .step import TrainState


class FitState(NamedTuple):
    """All that [`flowprop.fit`][] needs to go on: a PyTree of arrays, and what a checkpoint holds.

    **Fields:**

    - `training`: the [`flowprop.TrainState`][] after the last step.
    - `best`: the arrays of the best model so far, or `None` if no number is watched.
    - `steps`: the loss and its metrics, one value for each step.
    - `evaluations`: `evaluation_step` and the numbers of each evaluation.

    ```python
    import flowprop as fp
    import jax
    import optax

    points, _ = fp.data.two_moons(200, key=jax.random.key(0))
    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(1))
    options = {"batch_size": 50, "key": jax.random.key(2), "progress": False}
    flow = fp.fm_flow(net, shape=(2,))
    _, history = fp.fit(flow, points, optax.adam(1e-3), steps=60, **options)
    _, longer = fp.fit(flow, points, optax.adam(1e-3), steps=100, state=history.state, **options)
    print(longer["step"][-1], longer.state.training.step)  # 100 100
    ```
    """

    training: TrainState
    best: PyTree
    steps: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]


class History(dict[str, np.ndarray]):
    """The history of a training: a dict of arrays, with the state at the end.

    `step` (from 1), `loss` and the metrics of the loss have one value for each step. `evaluation_step` (from 0), the
    validation loss and the numbers of `evaluate` have one value for each evaluation.

    **Attributes:**

    - `state`: the [`flowprop.FitState`][] from which `fit(..., state=history.state)` goes on.
    - `best_step`: the step of the model that `fit` returned, if it returned the best; otherwise `None`.
    - `stopped`: what ended the training: `"steps"`, `"patience"`, `"callback"`, `"interrupted"` or `"data"`.

    ```python
    import flowprop as fp
    import jax
    import optax

    points, _ = fp.data.two_moons(200, key=jax.random.key(0))
    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(1))
    options = {"batch_size": 50, "key": jax.random.key(2), "progress": False}
    flow = fp.fm_flow(net, shape=(2,))
    _, history = fp.fit(flow, points, optax.adam(1e-3), steps=20, validation=0.2, **options)
    print(history.stopped, history["validation_loss"].shape)  # steps (2,)
    ```
    """

    state: FitState
    best_step: int | None
    stopped: str


class Report(NamedTuple):
    """What [`flowprop.fit`][] tells its callbacks.

    **Fields:**

    - `step`: the number of steps taken.
    - `values`: numbers by name: the mean `loss` and mean metrics since the last report, and those of the evaluation.
    - `model`: the model now, with averaged parameters if there is an average.

    ```python
    import flowprop as fp

    report = fp.Report(step=100, values={"loss": 0.5}, model=None)
    print(report.values["loss"] < 1)  # True
    ```
    """

    step: int
    values: dict[str, float]
    model: Any


class Records:
    """The history as it grows.

    **Arguments:**

    - `steps`, `evaluations`: the values so far, one for each step and for each evaluation. Empty at the beginning.
    - `monitor`: the number of an evaluation that decides which model is the best, or `None`.
    - `largest`: whether its largest value is the best; otherwise the smallest is.
    """

    def __init__(
        self,
        steps: dict[str, np.ndarray],
        evaluations: dict[str, np.ndarray],
        monitor: str | None = None,
        largest: bool = False,
    ) -> None:
        self._steps = {name: [np.asarray(values)] for name, values in steps.items()}
        self._evaluations = {name: list(np.asarray(values)) for name, values in evaluations.items()}
        self._monitor, self._sign = monitor, -1 if largest else 1
        self._told = self.num_steps

    @property
    def num_steps(self) -> int:
        return sum(map(len, self._steps.get("loss", [])))

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """The loss and its metrics, one value for each step."""
        for name, parts in self._steps.items():
            self._steps[name] = [np.concatenate(parts)]
        return {name: parts[0] for name, parts in self._steps.items()}

    @property
    def evaluations(self) -> dict[str, np.ndarray]:
        """`evaluation_step` and the numbers of each evaluation."""
        return {name: np.asarray(values) for name, values in self._evaluations.items()}

    def add_steps(self, values: dict[str, np.ndarray]) -> None:
        for name, new in values.items():
            self._steps.setdefault(name, []).append(new)

    def add_evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Add the numbers of one evaluation. All evaluations have the same names."""
        new = {"evaluation_step": step, **values}
        if self._evaluations and new.keys() != self._evaluations.keys():
            other = sorted(new.keys() ^ self._evaluations.keys())
            raise ValueError(
                f"`evaluate` returns other names at step {step} than before, {other}: always return the same names"
            )
        if self._monitor is not None and self._monitor not in new:
            raise ValueError(f"`monitor` is {self._monitor!r}: give one of {sorted(new.keys() - {'evaluation_step'})}")
        for name, value in new.items():
            self._evaluations.setdefault(name, []).append(np.asarray(value))

    def means(self) -> dict[str, float]:
        """The means of the loss and its metrics over the steps since the last call of this."""
        first, self._told = self._told, self.num_steps
        new = {name: values[first:] for name, values in self.steps.items()}
        return {name: float(values.mean(dtype=np.float64)) for name, values in new.items() if values.size}

    @property
    def best(self) -> int | None:
        """The number of the best evaluation, from 0; `None` if there is none. NaN is never the best."""
        values = self._evaluations.get(self._monitor or "", [])
        if not values or np.all(np.isnan(values)):
            return None
        return int(np.nanargmin(self._sign * np.asarray(values, float)))

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation."""
        return None if self.best is None else int(self._evaluations["evaluation_step"][self.best])

    @property
    def since_best(self) -> int:
        """The number of evaluations after the best one."""
        count = len(self._evaluations.get("evaluation_step", []))
        return count if self.best is None else count - 1 - self.best

    @property
    def last_evaluation(self) -> int | None:
        """The step of the last evaluation."""
        steps = self._evaluations.get("evaluation_step", [])
        return int(steps[-1]) if steps else None

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The values of the steps and of the evaluations."""
        return self.steps, self.evaluations

    def history(self, state: FitState, stopped: str) -> History:
        found = History(step=np.arange(1, self.num_steps + 1), **state.steps, **state.evaluations)
        found.state, found.stopped = state, stopped
        found.best_step = None if state.best is None else self.best_step
        return found
