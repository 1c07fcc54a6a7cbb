"""A training run: its steps, evaluations and checkpoints, and what ends it."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from .._checked import described
from .batches import Position, advanced, prefetched
from .checkpoints import Folder
from .examples import Examples
from .history import FitState, History, Records, Report
from .interrupt import Interrupt, interruptible
from .loop import Carry, Loop, Reports, Source, epoch_order
from .loss import check_names, evaluate_loss, is_real_scalar
from .step import step_keys
from .trainer import Trainer


#: Without `checkpoint_every`, a checkpoint is saved after this time.
SECONDS_BETWEEN_CHECKPOINTS = 60.0


#: Called with a `Report`; returns `True` to end the training.
Callback = Callable[[Report], bool | None]


class NonFiniteLossError(FloatingPointError):
    """A step of [`flowprop.fit`][] had a loss, or led to parameters, that are not finite. The step was not taken.

    **Attributes:**

    - `step`: the number of the step, from 1.
    - `rows`: the rows of the data whose loss alone is not finite.
    - `model`: the model before the step.
    - `history`: the history before the step; `history.state` is the last good state.

    ```python
    import flowprop as fp

    print(issubclass(fp.NonFiniteLossError, FloatingPointError))  # True
    ```
    """

    step: int
    rows: list[int]
    model: Any
    history: History


class Call(NamedTuple):
    """One call of the device: `count` steps after `first`. The run waits for a call whose results it needs."""

    first: int
    steps: int
    waits: bool
    source: Source
    position: Position | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a caller of `fit` asks for, beside the model and the data."""

    steps: int
    batch_size: int
    evaluate: Callable[[Any], Mapping[str, float]] | None
    evaluate_every: int | None
    monitor: str | None
    largest: bool
    patience: int | None
    callbacks: tuple[Callback, ...]
    checkpoint_every: int | None
    progress: bool


class Run:
    """One training, from a state to the model and its history.

    **Arguments:**

    - `settings`: what the caller asks for.
    - `trainer`, `loop`: the steps.
    - `examples`: the data.
    - `folder`: where checkpoints go, or `None`.
    - `state`, `position`: where training begins.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Trainer,
        loop: Loop,
        examples: Examples,
        folder: Folder | None,
        state: FitState,
        position: Position | None,
    ) -> None:
        self._settings, self._trainer, self._loop, self._examples = settings, trainer, loop, examples
        self._folder, self._position = folder, position
        self._training, self._best = state.training, state.best
        self._records = Records(state.steps, state.evaluations, settings.monitor, settings.largest)
        self._done = self._records.num_steps
        self._saved_at = time.monotonic()
        # Calls that the device has, each with the carry and the position before it.
        self._under_way: list[tuple[Carry, Position | None, Call, Reports]] = []
        self._order = None
        if examples.source is not None:
            size = examples.num_examples, settings.batch_size
            self._order = epoch_order(self._training.key, self._training.step, *size)

    def __call__(self) -> tuple[Any, History]:
        """Train. Whatever ends it, the work so far is saved, returned, or attached to the error."""
        bar = tqdm(total=self._settings.steps, initial=self._done, unit="step", disable=not self._settings.progress)
        try:
            with interruptible() as interrupt, bar:
                stopped = self._train(interrupt, bar)
        except BaseException as error:
            self._rescue(error)
            raise
        self._save()
        if stopped in _WARNINGS:
            what = _WARNINGS[stopped].format(name=interrupt.name)
            again = " Call `fit` again to go on." if self._folder is not None else ""
            warnings.warn(
                f"{what} ended the training at step {self._done} of {self._settings.steps}: `fit` returns what there "
                f"is.{again}",
                stacklevel=5,
            )
        return self._model(), self._history(stopped)

    def _train(self, interrupt: Interrupt, bar: tqdm) -> str:
        """Take the steps. Returns what ended the training."""
        if (ended := self._at_boundary()) is not None:
            return ended
        for call in self._calls():
            if call.steps == 0:
                return "data"
            before = Carry(self._training, self._order)
            (self._training, self._order), reports = self._loop(before, call.source, call.steps)
            self._under_way.append((before, self._position, call, reports))
            self._position = call.position
            saves = self._is_time_to_save(call.first + call.steps)
            # While this waits for one call, the device already has the next one, but never more than that.
            while len(self._under_way) > (not (call.waits or saves or interrupt.name)):
                self._wait_for(*self._under_way[0], bar)
                self._under_way.pop(0)
            if interrupt.name and self._done < self._settings.steps:
                return "interrupted"
            if call.waits and (ended := self._at_boundary()) is not None:
                return ended
            if saves:
                self._save()
        return "steps"

    def _calls(self) -> Iterator[Call]:
        """The calls from here to the last step, with their batches if these are read from the host."""
        if self._examples.reader is None:
            assert self._examples.source is not None
            for first, count, waits in self._plan():
                yield Call(first, count, waits, self._examples.source, None)
            return
        reader = self._examples.reader(self._training.key, self._position)
        size, layout = self._loop.steps_per_call, self._examples.layout

        def padded(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])

        def read() -> Iterator[Call]:
            for first, count, waits in self._plan():
                chunk = reader.read(first, count)
                source = layout.place(jax.tree.map(padded, chunk.batches), stacked=True) if chunk.steps else Source(())
                yield Call(first, chunk.steps, waits or chunk.steps < count, source, chunk.position)
                if chunk.steps < count:
                    yield Call(first + chunk.steps, 0, True, Source(()), chunk.position)
                    return

        yield from prefetched(read)

    def _is_time_to_save(self, step: int) -> bool:
        """Whether a checkpoint is due after a step, by the number of steps that was asked for, or by the clock."""
        if self._folder is None:
            return False
        every = self._settings.checkpoint_every
        return step % every == 0 if every else time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS

    def _plan(self) -> Iterator[tuple[int, int, bool]]:
        settings, done = self._settings, self._done
        every = settings.evaluate_every, settings.checkpoint_every
        while done < settings.steps:
            stop = min([settings.steps, *(done + n - done % n for n in every if n)])
            count = min(self._loop.steps_per_call, stop - done)
            done += count
            yield done - count, count, done == stop

    def _wait_for(self, before: Carry, position: Position | None, call: Call, reports: Reports, bar: tqdm) -> None:
        """Record what a call reports."""
        sound = np.asarray(reports.sound)[: call.steps]
        values = {name: np.asarray(value)[: call.steps] for name, value in reports.values.items()}
        count = call.steps
        if not (sound.all() and reports.finite):
            # A gradient that is not finite shows in the parameters, and in the loss of the next step.
            count = call.steps - 1 if sound.all() else int(np.argmin(sound))
            self._under_way.clear()
            self._training, self._order = before
            while count:
                after, found = self._loop(before, call.source, count)
                if found.finite:
                    self._training, self._order = after
                    break
                count -= 1
            if call.position is not None:
                self._position = advanced(position, count * self._settings.batch_size)
        self._records.add_steps({name: value[:count] for name, value in values.items()})
        self._done += count
        bar.set_postfix(loss=f"{values['loss'][max(count - 1, 0)]:.4g}", refresh=False)
        bar.update(count)
        if count < call.steps:
            raise self._not_finite({name: value[count] for name, value in values.items()}, call)

    def _at_boundary(self) -> str | None:
        """Evaluate and save, if it is time to. Returns what ends the training, if something does."""
        settings, records = self._settings, self._records
        every = settings.evaluate_every
        due = self._done in (0, settings.steps) or (every is not None and self._done % every == 0)
        ended = None
        if due and records.last_evaluation != self._done:
            ended = self._report()
        if settings.patience is not None and records.since_best >= settings.patience:
            return "patience"
        return ended

    def _report(self) -> str | None:
        """Evaluate the model and tell it to the callbacks. Returns `"callback"` if one ends the training."""
        settings, records = self._settings, self._records
        validation, evaluate = self._examples.validation, settings.evaluate
        if validation is None and evaluate is None and not settings.callbacks and self._folder is None:
            return None
        model = self._trainer.model(self._training)
        values: dict[str, Any] = {}
        if validation is not None:
            values |= validation(model)
        if evaluate is not None:
            values |= _evaluated(evaluate, model, self._done, (*self._loop.metrics, *values))
        if validation is not None or evaluate is not None:
            records.add_evaluation(self._done, values)
            if settings.monitor is not None and records.since_best == 0:
                self._best = self._trainer.arrays(self._training)
        numbers = records.means() | {name: float(value) for name, value in values.items()}
        if self._folder is not None and numbers:
            self._folder.log(self._done, numbers)
        ends = [bool(callback(Report(self._done, numbers, model))) for callback in settings.callbacks]
        return "callback" if any(ends) else None

    def _model(self) -> Any:
        """The best model if a number is watched, and the last otherwise."""
        best = self._best if self._records.best is not None else None
        return self._trainer.model(self._training) if best is None else self._trainer.assemble(best)

    def _history(self, stopped: str) -> History:
        return self._records.history(FitState(self._training, self._best, *self._records.arrays()), stopped)

    def _save(self) -> None:
        if self._folder is not None and self._done:
            self._saved_at = time.monotonic()
            self._folder.save(FitState(self._training, self._best, *self._records.arrays()), self._position)

    def _rescue(self, error: BaseException) -> None:
        """Save the work so far, and attach it to an error that ends the training."""
        if self._under_way:
            # Calls whose results were not waited for.
            (self._training, self._order), self._position, *_ = self._under_way[0]
        if self._done == 0:
            return
        self._save()
        if self._folder is not None:
            error.add_note(f"`fit` saved the training after step {self._done} in {str(self._folder.path)!r}")
        error.model, error.history = self._model(), self._history("error")  # type: ignore[attr-defined]

    def _not_finite(self, values: dict[str, Any], call: Call) -> NonFiniteLossError:
        """The error for the step after `done`, with the rows of its batch whose loss alone is not finite."""
        step, examples = self._done, self._examples
        i = step - call.first
        if examples.source is not None:
            assert examples.num_examples is not None
            size = self._settings.batch_size
            order = np.asarray(epoch_order(self._training.key, jnp.asarray(step), examples.num_examples, size))
            places = order[step % (examples.num_examples // size) * size :][:size]
            rows = places if call.source.rows is None else np.asarray(call.source.rows)[places]
            batch = jax.tree.map(lambda array: array[rows], call.source._replace(rows=None))
        else:
            batch = jax.tree.map(lambda array: array[i], call.source)
            rows = np.arange(self._settings.batch_size)
        bad = [int(row) for row in rows[self._rows_not_finite(batch)]]
        terms = [f"`{name}` is {value}" for name, value in values.items() if not np.isfinite(value)]
        what = f"the loss is {values['loss']}" if not np.isfinite(values["loss"]) else "a parameter is not finite"
        others = f" ({', '.join(terms[1:])})" if len(terms) > 1 and not np.isfinite(values["loss"]) else ""
        where = f" for row{'s' * (len(bad) > 1)} {', '.join(map(str, bad[:5]))} of `data`" if bad else ""
        error = NonFiniteLossError(
            f"{what}{others} at step {step + 1}{where}: lower the learning rate, clip the gradient "
            "(`optax.clip_by_global_norm`), or look for a label or a value out of range in `data`"
        )
        error.step, error.rows = step + 1, bad
        return error

    def _rows_not_finite(self, batch: Source) -> np.ndarray:
        """Which rows of a batch have a loss that is not finite, each as a batch of its own."""
        model = self._trainer.model(self._training)
        key = step_keys(self._training.key, self._training.step)[1]
        size = self._settings.batch_size

        def loss(row: Source) -> jax.Array:
            one = jax.tree.map(lambda array: array[None], row)
            return evaluate_loss(model, one.data, one.weights, key=key)[0]

        try:
            found = ~np.isfinite(np.asarray(jax.vmap(loss)(batch)))
        except Exception:  # a loss that needs a batch
            return np.zeros(size, bool)
        # If every row is to blame, none is.
        return np.zeros(size, bool) if found.all() else found


_WARNINGS = {
    "interrupted": "{name}",
    "data": "The end of `data`, an iterator that cannot be read again,",
}


def _evaluated(evaluate: Callable[..., Any], model: Any, step: int, taken: tuple[str, ...]) -> Mapping[str, Any]:
    """The dict of numbers that `evaluate` returns."""
    try:
        values = evaluate(model)
    except Exception as error:
        error.add_note(f"`evaluate` raised this in `flowprop.fit`, at step {step}")
        raise
    if not isinstance(values, Mapping):
        raise TypeError(
            f"`evaluate` returns {described(values)}: return a dict of numbers, such as {{'accuracy': 0.9}}"
        )
    check_names("evaluate", values, taken)
    for name, value in values.items():
        if not is_real_scalar(value):
            raise TypeError(f"`evaluate` returns {described(value)} for {name!r}: return a number")
    return values
