"""The folder of a training: checkpoints by Orbax, the configuration, and the history as lines of JSON."""

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .._checked import is_key
from .._checkpoint.structure import describe
from .batches import Position
from .history import FitState
from .optimiser import trained
from .step import TrainState


#: The version of the layout of the folder. Another layout cannot be continued.
FORMAT = 1


class Folder:
    """A folder that a training is saved in, and continued from.

    `config.json` says what is trained, `history.jsonl` has the history in lines of JSON, and `checkpoints/` the states
    of the last steps, as Orbax writes them: each is complete or absent.

    **Arguments:**

    - `path`: the folder. It is made if it does not exist.
    - `config`: what must be equal for a training to be continued: a dict of JSON values.
    - `keep`: the number of checkpoints to keep.

    **Raises:** `ValueError` if the folder holds another training, or something else; it is then left as it is.
    """

    def __init__(self, path: str | os.PathLike, config: Mapping[str, Any], keep: int = 2) -> None:
        self._ocp = _orbax()
        self.path = Path(path).absolute()
        self._config = json.loads(json.dumps({"format": FORMAT, **config}))
        self._compare(self._config)
        self._log = self.path / "history.jsonl"
        self._keep = keep
        self._opened: Any = None
        self._saved: int | None = None

    @property
    def _manager(self) -> Any:
        """Orbax's manager. The folder is made when it is first used."""
        if self._opened is None:
            self.path.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                _write(self.path / "config.json", json.dumps(self._config, indent=2) + "\n")
            options = self._ocp.CheckpointManagerOptions(max_to_keep=self._keep, enable_async_checkpointing=True)
            self._opened = self._ocp.CheckpointManager(self.path / "checkpoints", options=options)
        return self._opened

    def _compare(self, config: dict[str, Any]) -> None:
        file = self.path / "config.json"
        if not file.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(f"`checkpoint` is {str(self.path)!r}, which holds other files: give a new folder")
            return
        try:
            old = json.loads(file.read_text())
        except (ValueError, OSError) as error:
            raise ValueError(
                f"`checkpoint` holds {str(file)!r}, which is damaged ({error}): give a new folder"
            ) from None
        for name in dict.fromkeys([*config, *old]):
            if old.get(name) != config.get(name):
                here, there = _short(config.get(name)), _short(old.get(name))
                raise ValueError(
                    f"`checkpoint` {str(self.path)!r} holds a training with another `{name}`, {there} where this call "
                    f"has {here}: give a new folder, or the same arguments to go on"
                )

    def restore(self, first: FitState) -> tuple[FitState, Position | None] | None:
        """The last checkpoint and the position of the data, or `None` if there is none.

        **Arguments:**

        - `first`: the state before the first step: its arrays have the shapes and places of those in the checkpoint.
        """
        step = self._manager.latest_step() if (self.path / "config.json").exists() else None
        if step is None:
            return None
        ocp = self._ocp
        record = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
        shapes = {name: jax.ShapeDtypeStruct((step,), np.dtype(dtype)) for name, dtype in record["steps"].items()}
        model = first.training, first.best
        like = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in _named(model).items()}
        arguments = ocp.args.Composite(model=ocp.args.StandardRestore(like), steps=ocp.args.StandardRestore(shapes))
        saved = self._manager.restore(step, args=arguments)
        training, best = _unnamed(saved.model, model)
        steps = {name: np.asarray(values) for name, values in saved.steps.items()}
        evaluations = {name: np.asarray(values, dtype) for name, (dtype, values) in record["evaluations"].items()}
        self._cut(step)
        self._saved = step
        position = None if record["position"] is None else Position(*record["position"])
        return FitState(training, best, steps, evaluations), position

    def save(self, state: FitState, position: Position | None) -> None:
        """Save a state, unless its step is saved already. Writing goes on in the background."""
        step = int(state.training.step)
        if self._saved is not None and step <= self._saved:
            return
        ocp = self._ocp
        record = {
            "steps": {name: str(values.dtype) for name, values in state.steps.items()},
            "evaluations": {name: (str(v.dtype), v.tolist()) for name, v in state.evaluations.items()},
            "position": position,
        }
        arguments = ocp.args.Composite(
            model=ocp.args.StandardSave(_named((state.training, state.best))),
            steps=ocp.args.StandardSave(state.steps),
            record=ocp.args.JsonSave(record),
        )
        self._manager.save(step, args=arguments)
        self._saved = step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to `history.jsonl`."""
        if self._manager is not None and jax.process_index() == 0:
            line = {"step": step, **{k: float(v) for k, v in values.items()}, "time": round(time.time(), 3)}
            with self._log.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _cut(self, step: int) -> None:
        """Remove the lines after a step, which the training will write again."""
        if jax.process_index() == 0 and self._log.exists():
            lines = [line for line in self._log.read_text().splitlines() if _step_of(line) <= step]
            _write(self._log, "".join(line + "\n" for line in lines))

    def close(self) -> None:
        """Wait until everything is written."""
        if self._opened is not None:
            self._opened.wait_until_finished()
            self._opened.close()


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("`checkpoint` needs Orbax: `pip install flowprop[train]`") from error
    return orbax.checkpoint


def configuration(model: Any, *, optimiser: Any, state: TrainState, data: PyTree) -> dict[str, str]:
    """Short texts that tell a model, an optimiser, a key and data from others."""
    arrays, _ = eqx.partition(model, eqx.is_array)
    parameters = trained(state.parameters)
    update = functools.partial(optax.with_extra_args_support(optimiser).update, value_fn=_no_loss)
    program = jax.make_jaxpr(update)(
        parameters, state.optimiser, state.parameters, value=jnp.zeros(()), grad=parameters
    )
    return {
        "model": f"{type(model).__name__} {_hash(json.dumps(describe(model)))} {digest(arrays)}",
        "optimiser": _hash(_ADDRESS.sub("", str(program))),
        "key": digest(state.key),
        "data": digest(data),
    }


def _no_loss(parameters: PyTree) -> Array:
    """Stands for the loss where an optimiser is compared with another."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(parameters)), jnp.zeros(()))


#: Addresses in the text of a program: they differ from run to run.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(tree: PyTree, rows: int = 1024) -> str:
    """A short text that depends on the shapes and types of some arrays, and on at most `rows` rows of each."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = jax.random.key_data(leaf) if is_key(leaf) else leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype} ".encode())
        if array.ndim and array.shape[0] > rows:
            array = array[np.linspace(0, array.shape[0] - 1, rows).astype(int)]
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _named(tree: PyTree) -> dict[str, Any]:
    """The arrays of a PyTree by name; keys as their data, and without empty arrays, which Orbax refuses."""
    named = {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        array = jax.random.key_data(leaf) if is_key(leaf) else jnp.asarray(leaf)
        if array.size:
            named[f"{i}{jax.tree_util.keystr(path)}"] = array
    return named


def _unnamed(named: Mapping[str, Any], like: PyTree) -> PyTree:
    """The inverse of `_named`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    found = []
    for i, (path, leaf) in enumerate(leaves):
        array = named.get(f"{i}{jax.tree_util.keystr(path)}", leaf)
        is_data = is_key(leaf) and not is_key(array)
        found.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_data else array)
    return jax.tree.unflatten(structure, found)


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that a kill has cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
