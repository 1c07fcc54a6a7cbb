"""`flowprop train`: from a table to a saved model."""

import json
import math
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import flowprop as fp

from .model import fit_data, make_model, measure, measure_baseline
from .refused import Refused
from .settings import Task
from .table import read_table


#: The file in the output folder that tells the same command from another one.
SETTINGS = "settings.json"


def train(options: Any, task: Task) -> None:
    """Train, save and measure.

    **Arguments:**

    - `options`: the options of `flowprop train`.
    - `task`: what to train.
    """
    _check(options)
    settings = {name: value for name, value in asdict(options).items() if name not in ("output", "progress")}
    settings = json.loads(json.dumps(settings, default=str))
    is_new = _check_folder(options.output, settings)
    table = read_table(options.data)
    task = task.of(table)
    rows, given = task.read(table)
    if task.name == "classify":
        task = replace(task, classes=int(rows.max()) + 1)
    fitted, held_out, tested = _split(len(rows), options)
    _check_rows(task, rows, given, fitted)
    key_model, key_fit, key_measure = jax.random.split(jax.random.key(options.seed), 3)
    width = options.width or int(np.clip(4 * (math.prod(rows.shape[1:]) + given.shape[1]), 64, 1024))
    sizes = {"width": width, "depth": options.depth, "blocks": options.blocks}
    try:
        model = make_model(task, rows[fitted], given[fitted], **sizes, key=key_model)
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
        rate = optax.cosine_decay_schedule(options.learning_rate, options.steps)
        model, history = fp.fit(
            model,
            fit_data(task, rows[fitted], given[fitted]),
            optax.adamw(rate, weight_decay=options.weight_decay),
            steps=options.steps,
            batch_size=min(options.batch_size, len(fitted)),
            key=key_fit,
            ema=options.ema,
            validation=fit_data(task, rows[held_out], given[held_out]),
            patience=options.patience,
            checkpoint=options.output / "checkpoint",
            progress=options.progress,
        )
    except (ValueError, OSError, ImportError) as error:
        if is_new:
            shutil.rmtree(options.output, ignore_errors=True)
        raise Refused(str(error)) from error
    results: dict[str, Any] = {"task": task.name, "protocol": task.protocol, "steps": len(history["loss"])}
    results["best_step"] = int(history["evaluation_step"][np.argmin(history["validation_loss"])])
    if len(tested):
        results["model"] = measure(task, model, rows[tested], given[tested], key=key_measure)
        parts = [(rows[part], given[part]) for part in (fitted, tested)]
        results["gaussian" if task.name != "classify" else "class_shares"] = measure_baseline(task, *parts)
    fp.save(options.output / "model.fp", model, {"task": task.to_json(), "settings": settings, "results": results})
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _print(results, options.output)


def _check(options: Any) -> None:
    for name in ("steps", "patience", "batch_size", "width", "depth", "blocks"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise Refused(f"--{name.replace('_', '-')} is {value}: give a positive number")
    for name, low, high, open_low in (
        ("validation", 0, 1, True),
        ("test", 0, 1, False),
        ("ema", 0, 1, True),
        ("learning_rate", 0, float("inf"), True),
        ("weight_decay", 0, float("inf"), False),
    ):
        value = getattr(options, name)
        if not (low < value < high or (value == low and not open_low)):
            below = f" and below {high}" if high == 1 else ""
            bound = "above 0" if open_low else "of at least 0"
            raise Refused(f"--{name.replace('_', '-')} is {value}: give a number {bound}{below}")
    if options.validation + options.test >= 1:
        raise Refused("--validation and --test leave no rows to train on: give shares whose sum is below 1")
    if not 0 <= options.seed < 2**31:
        raise Refused(f"--seed is {options.seed}: give a whole number from 0 to 2147483647")


def _check_folder(output: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder is new. `Refused` if it is of something else."""
    if not output.exists():
        parent = next(parent for parent in output.absolute().parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise Refused(f"--output {output} cannot be made in {parent}: give another folder")
        return True
    if not output.is_dir():
        raise Refused(f"--output {output} is not a folder: give a new folder")
    if not any(output.iterdir()):
        return False
    try:
        old = json.loads((output / SETTINGS).read_text())
        different = [name for name in settings if old.get(name) != settings[name]]
    except (OSError, ValueError, AttributeError):
        raise Refused(f"--output {output} holds other files: give a new folder") from None
    if different:
        name = different[0]
        raise Refused(
            f"--output {output} holds a training with another {name}, {old.get(name)!r} where this command has "
            f"{settings[name]!r}: give a new folder, or the same options to go on"
        )
    return False


def _split(count: int, options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows for training, validation and test."""
    order = np.random.default_rng(options.seed).permutation(count)
    num_validation, num_test = round(options.validation * count), round(options.test * count)
    fitted = order[num_validation + num_test :]
    if num_validation < 1 or len(fitted) < 2 or (options.test and num_test < 1):
        raise Refused(
            f"{options.data} has {count} rows, too few to train on, to validate and to test: give more rows, or other "
            "shares by --validation and --test"
        )
    return np.sort(fitted), np.sort(order[:num_validation]), np.sort(order[num_validation : num_validation + num_test])


def _check_rows(task: Task, rows: np.ndarray, given: np.ndarray, fitted: np.ndarray) -> None:
    if task.name == "classify":
        counts, trained = np.bincount(rows), np.bincount(rows[fitted], minlength=task.classes)
        if task.classes < 2:
            raise Refused(f"target {task.target!r} has the class 0 alone: give at least two classes")
        if not counts.all():
            raise Refused(
                f"target {task.target!r} has no row of class {np.argmin(counts)}: number the classes 0, 1, ..."
            )
        if not trained.all():
            raise Refused(
                f"class {np.argmin(trained)} of target {task.target!r} has {counts[np.argmin(trained)]} rows, none of "
                "them to train on: give more rows of it, or another --seed"
            )
        return
    low, high = rows[fitted].min(axis=0), rows[fitted].max(axis=0)
    constant = [repr(name) for name, same in zip(task.modelled, low == high, strict=True) if same]
    if constant:
        more = f" and {len(constant) - 8} more" if len(constant) > 8 else ""
        raise Refused(
            f"constant in the training rows, and so without a density: {', '.join(constant[:8])}{more}: leave them out "
            "with --columns"
        )


def _print(results: dict[str, Any], output: Path) -> None:
    tables = {name: values for name, values in results.items() if isinstance(values, dict)}
    names = list(dict.fromkeys(name for values in tables.values() for name in values if name != "standard_error"))
    if tables:
        print(f"{'test rows':<14}" + "".join(f"{name:>16}" for name in names if name != "rows"))
    for label, values in tables.items():
        cells = [f"{values[name]:>16.4f}" if name in values else " " * 16 for name in names if name != "rows"]
        print(f"{label:<14}" + "".join(cells))
    print(f"best at step {results['best_step']} of {results['steps']}; saved as {output / 'model.fp'}")
