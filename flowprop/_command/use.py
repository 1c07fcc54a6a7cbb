"""The commands that use a saved model: `sample`, `log-prob`, `evaluate` and `info`."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flowprop as fp

from . import model as models
from .refused import Refused
from .settings import Task
from .table import Table, check_output, read_table, write_csv, write_table


def sample(path: Path, output: Path, count: int, given: Path | None, seed: int, *, overwrite: bool) -> None:
    """Draw samples and write them."""
    _check_seed(seed)
    if count < 1:
        raise Refused(f"-n is {count}: give a positive number")
    check_output(output, overwrite=overwrite)
    task = _task(path)
    if task.name == "classify":
        raise Refused(f"{path} is a classifier, which has no samples: give a model of another task")
    if task.given and given is None:
        raise Refused(f"{path} is conditioned on {len(task.given)} columns: give a table with them by --given")
    if not task.given and given is not None:
        raise Refused(f"{path} is not conditioned on columns: leave out --given")
    known = np.zeros((1, 0), np.float32)
    if given is not None:
        known = read_table(given).numbers(task.given).astype(np.float32)
    samples = models.sample(task, _load(path), known, count, key=jax.random.key(seed))
    columns = dict(zip(task.given, np.repeat(known, count, axis=0).T, strict=True))
    write_table(output, columns | dict(zip(task.modelled, samples.T, strict=True)))


def log_prob(path: Path, data: Path, output: Path | None, seed: int, *, overwrite: bool) -> None:
    """Write the log-likelihood of each row."""
    _check_seed(seed)
    if output is not None:
        check_output(output, overwrite=overwrite)
    task = _task(path)
    rows, given = task.read(_table(task, data))
    values = models.log_prob(task, _load(path), rows, given, key=jax.random.key(seed))
    if output is not None:
        write_table(output, {"log_prob": values})
    else:
        # A text stream without a binary one below it is not a file: a notebook, a test.
        write_csv(_Text(), {"log_prob": values})  # type: ignore[arg-type]


def evaluate(path: Path, data: Path, seed: int) -> None:
    """Print the measures of a model on a table."""
    _check_seed(seed)
    task = _task(path)
    rows, given = task.read(_table(task, data))
    print(json.dumps({"task": task.name, **models.measure(task, _load(path), rows, given, key=jax.random.key(seed))}))


def info(path: Path) -> None:
    """Print what a model is."""
    task, found = _task(path), _read(fp.model_info, path)
    size = {"model": found.name, "parameters": found.num_parameters, "versions": found.versions}
    metadata = {name: found.metadata.get(name) for name in ("settings", "results")}
    print(json.dumps({**task.to_json(), **size, **metadata}, indent=2))


class _Text:
    """Standard output for a writer of bytes."""

    def write(self, text: bytes) -> None:
        sys.stdout.write(text.decode())


def _task(path: Path) -> Task:
    return Task.from_json(_read(fp.model_info, path).metadata.get("task"))


def _load(path: Path) -> Any:
    return _read(fp.load, path)


def _read(function: Any, path: Path) -> Any:
    try:
        return function(path)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist: give the model.fp that `flowprop train` has saved") from None
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from None


def _table(task: Task, data: Path) -> Table:
    """A table with the columns of a model."""
    table = read_table(data)
    needed = (*task.given, *task.modelled)
    # An array without names has the columns in the order of the training table's; only their number can be checked.
    if data.suffix == ".npy" and len(table.names) != len(needed):
        raise Refused(f"{data} has {len(table.names)} columns where the model has {len(needed)}: give the same columns")
    return table


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise Refused(f"--seed is {seed}: give a whole number from 0 to 2147483647")
