"""What a model is for: its task and columns, kept with it in its file."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from .refused import Refused
from .table import Table


class Protocol(StrEnum):
    """How a model is trained."""

    FM = "fm"
    CT = "ct"
    DF = "df"
    DT = "dt"


@dataclass(frozen=True)
class Task:
    """A task and the names of its columns.

    **Arguments:**

    - `name`: `density`, `conditional`, `classify` or `regress`.
    - `protocol`: how the model is trained.
    - `columns`: the columns that are modelled (density, conditional) or given (classify, regress).
    - `condition`: the columns that a conditional density is given.
    - `target`: the column that is predicted.
    - `classes`: the number of classes.
    """

    name: str
    protocol: Protocol
    columns: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    target: str | None = None
    classes: int = 0

    def __post_init__(self) -> None:
        has_target = self.name in ("classify", "regress")
        if has_target and self.target is None:
            raise Refused(f"--task {self.name} needs a column to predict: give --target COLUMN")
        if not has_target and self.target is not None:
            raise Refused(f"--target is for classify and regress, not for {self.name}: leave it out")
        if self.name == "conditional" and not self.condition:
            raise Refused("--task conditional needs the columns to condition on: give --condition COLUMNS")
        if self.name != "conditional" and self.condition:
            raise Refused(f"--condition is for the task conditional, not for {self.name}: leave it out")
        if self.protocol == Protocol.DT and self.name != "classify":
            raise Refused(f"--protocol dt is for classify, not for {self.name}: give fm, ct or df")

    @property
    def given(self) -> tuple[str, ...]:
        """The columns that the model is given."""
        return {"density": (), "conditional": self.condition}.get(self.name, self.columns)

    @property
    def modelled(self) -> tuple[str, ...]:
        """The columns whose distribution the model describes."""
        return self.columns if self.target is None else (self.target,)

    def of(self, table: Table) -> "Task":
        """The task with the columns of a table in place of the defaults and the names of matrices."""
        condition = table.expand(self.condition)
        target = [] if self.target is None else table.expand([self.target])
        if len(target) > 1:
            raise Refused(f"--target {self.target} is a matrix of {len(target)} columns: give one column")
        others = [name for name in table.names if name not in (*condition, *target)]
        columns = table.expand(self.columns) if self.columns else others
        if not columns:
            raise Refused(f"{table.path} has no columns left for --columns: give a table with more columns")
        for name in (*condition, *target):
            if name in columns:
                raise Refused(f"column {name!r} is both in --columns and in --condition or --target: choose one")
        target_name = target[0] if target else None
        return Task(self.name, self.protocol, tuple(columns), tuple(condition), target_name, self.classes)

    def read(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """The columns that are modelled, and those that are given, each `(n, k)` in float32; labels are `(n,)`.

        Numbers are rounded to the nearest float32.
        """
        given = table.numbers(self.given).astype(np.float32)
        modelled = table.numbers(self.modelled)
        return (_labels(modelled[:, 0], self, table) if self.name == "classify" else modelled.astype(np.float32)), given

    def to_json(self) -> dict[str, Any]:
        """What goes into the file of the model."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Task":
        """The task of a model's file."""
        try:
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            return cls(**values | {"protocol": Protocol(values["protocol"])})
        except (AttributeError, TypeError, KeyError, ValueError):
            raise Refused(
                "the model was not saved by `flowprop train`: give the model.fp of its output folder"
            ) from None


def _labels(values: np.ndarray, task: Task, table: Table) -> np.ndarray:
    wrong = np.flatnonzero((values != np.round(values)) | (values < 0) | (values >= (task.classes or len(values))))
    if len(wrong):
        row, value = wrong[0], values[wrong[0]]
        largest = f"{task.classes - 1}" if task.classes else "at most the number of rows"
        raise Refused(
            f"target {task.target!r} of {table.path} has {value:g} in row {row + 1}: classes are whole numbers from 0 "
            f"to {largest}; number them so"
        )
    return values.astype(np.int32)
