"""`fit(..., checkpoint=folder)`: a training that stops and goes on is the undisturbed training, bit for bit."""

import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import all_but

import flowprop as fp


KEY = jax.random.key(5)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


class Model(eqx.Module):
    """A regression whose loss is random, like that of a flow, and that reports a metric."""

    weight: jax.Array

    def loss(self, x, *, key, weights=None):
        error = jnp.square(x @ self.weight - 1 + 0.1 * jax.random.normal(key, x.shape[:1]))
        return jnp.mean(error if weights is None else weights * error), {"largest": error.max()}


class Normed(eqx.Module):
    """A network with dropout and batch normalisation."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.3)

    def __call__(self, t, z, x, state, *, key=None):
        z, state = self.norm(z, state)
        return self.dropout(self.linear(jnp.append(z, t)), key=key), state


def stateful():
    return fp.fm_flow(fp.nn.Stateful(*eqx.nn.make_with_state(Normed)(jax.random.key(1))), shape=(3,))


class Shuffled:
    """An iterator of ragged batches without end, whose state is a dict that it changes in place, as grain's do."""

    def __init__(self, data, as_bytes=False):
        self._data, self._state, self._as_bytes = data, {"next": 0}, as_bytes

    def __iter__(self):
        return self

    def __next__(self):
        self._state["next"] += 1
        rng = np.random.default_rng(self._state["next"])
        return self._data[rng.integers(0, len(self._data), rng.integers(1, 9))]

    def get_state(self):
        return json.dumps(self._state).encode() if self._as_bytes else self._state

    def set_state(self, state):
        self._state = json.loads(state) if self._as_bytes else dict(state)


def grain_loader():
    grain = pytest.importorskip("grain")
    dataset = grain.MapDataset.source(X).seed(0).shuffle().repeat().batch(7)
    return iter(dataset.to_iter_dataset())


def memory_mapped(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


# Name -> model, data (of a folder), optimiser, options of `fit`.
ADAM = optax.adam(optax.cosine_decay_schedule(0.1, 40))
CASES = {
    "plain": (None, None, ADAM, {}),
    "average": (None, None, ADAM, {"ema": 0.9}),
    "dropout and batch normalisation": (stateful, None, ADAM, {"ema": 0.9, "validation": 0.3}),
    "weights and validation": (None, None, ADAM, {"weights": np.arange(1.0, 21.0), "validation": 0.3}),
    "memory-mapped": (None, memory_mapped, ADAM, {"validation": 0.3}),
    "list of batches": (None, lambda _: Batches(X, 7), ADAM, {"validation": X[:8]}),
    "iterator with a state": (None, lambda _: Shuffled(X), ADAM, {}),
    "iterator with a state of bytes": (None, lambda _: Shuffled(X, as_bytes=True), ADAM, {}),
    "generator": (None, lambda _: (X[i % 15 : i % 15 + 4] for i in range(10_000)), ADAM, {}),
    "grain": (None, lambda _: grain_loader(), ADAM, {}),
    "accumulation": (None, None, optax.MultiSteps(ADAM, 3), {}),
    "schedule-free": (None, None, optax.contrib.schedule_free_adamw(0.1), {"validation": 0.3}),
}


class Batches:
    """An iterable of batches that can be read again."""

    def __init__(self, data, size):
        self._data, self._size = data, size

    def __iter__(self):
        return (self._data[i : i + self._size] for i in range(0, len(self._data), self._size))


def fit(model=None, data=X, optimiser=ADAM, **options):
    defaults = {"steps": 24, "batch_size": 4, "key": KEY, "evaluate_every": 4, "steps_per_call": 3, "progress": False}
    return fp.fit(Model(jnp.zeros(3)) if model is None else model, data, optimiser, **(defaults | options))


def leaves(*trees):
    found = jax.tree.leaves(trees)
    return [np.asarray(jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) else a)
            for a in found if eqx.is_array_like(a)]  # fmt: skip


def assert_equal(first, second):
    """The models and histories of two trainings, their states included, agree in every bit."""
    (model, history), (other, other_history) = first, second
    assert history.keys() == other_history.keys()
    assert history.best_step == other_history.best_step
    here = leaves(eqx.filter(model, eqx.is_array), dict(history), history.state)
    there = leaves(eqx.filter(other, eqx.is_array), dict(other_history), other_history.state)
    assert len(here) == len(there) > 5
    for a, b in zip(here, there, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def lines(folder):
    """The lines of the history, without the time of day."""
    found = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in found]


@pytest.mark.parametrize("name", all_but({*CASES} - {"grain"}, CASES))
def test_going_on_is_the_undisturbed_run_bit_for_bit(name, tmp_path):
    make, data, optimiser, options = CASES[name]
    model = Model(jnp.zeros(3)) if make is None else make()

    def train(folder, steps):
        found = X if data is None else data(tmp_path)
        return fit(model, found, optimiser, steps=steps, checkpoint=tmp_path / folder, **options)

    undisturbed = train("undisturbed", 24)
    _, first = train("stopped", 8)
    assert first["loss"].shape == (8,)
    # Not a multiple of the steps in a call, so that calls begin at other steps.
    train("stopped", 16)
    assert_equal(undisturbed, train("stopped", 24))
    assert lines(tmp_path / "undisturbed") == lines(tmp_path / "stopped")
    if options:
        # The checkpoint itself changes nothing.
        plain = fit(model, X if data is None else data(tmp_path), optimiser, **options)
        assert_equal(undisturbed, plain)


def test_history_has_a_line_for_each_evaluation_and_two_checkpoints_are_kept(tmp_path):
    folder = tmp_path / "run"
    fit(validation=0.3, steps=10, checkpoint=folder, checkpoint_every=2)
    _, history = fit(validation=0.3, checkpoint=folder, checkpoint_every=2)
    found = lines(folder)
    assert [line["step"] for line in found] == history["evaluation_step"].tolist() == [0, 4, 8, 10, 12, 16, 20, 24]
    np.testing.assert_allclose([line["validation_loss"] for line in found], history["validation_loss"])
    np.testing.assert_allclose(found[1]["loss"], history["loss"][:4].mean(), rtol=1e-6)
    np.testing.assert_allclose(found[4]["loss"], history["loss"][10:12].mean(), rtol=1e-6)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir() if p.is_dir()) == ["22", "24"]


def test_a_finished_call_returns_at_once(tmp_path):
    folder = tmp_path / "run"
    seen = []
    first = fit(validation=0.3, checkpoint=folder)
    before = contents(folder)
    second = fit(validation=0.3, checkpoint=folder, callbacks=lambda report: seen.append(report.step))
    assert_equal(first, second)
    assert (seen, contents(folder)) == ([], before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    fit(steps=4, checkpoint=folder)
    return folder


def double(example, *, key):
    return 2 * example


OTHERS = {
    "model": ({"model": Model(jnp.ones(3))}, "another `model`"),
    "class of model": ({"model": stateful()}, "another `model`"),
    "data": ({"data": X + 1}, "another `data`"),
    "number of data": ({"data": X[:19]}, "another `data`"),
    "weights": ({"weights": np.ones(20)}, "another `data`"),
    "validation": ({"validation": 0.2}, "another `.*`"),
    "learning rate": ({"optimiser": optax.adam(0.2)}, "another `optimiser`"),
    "schedule": ({"optimiser": optax.adam(optax.cosine_decay_schedule(0.1, 41))}, "another `optimiser`"),
    "optimiser": ({"optimiser": optax.sgd(0.1)}, "another `optimiser`"),
    "key": ({"key": jax.random.key(6)}, "another `key`"),
    "batch size": ({"batch_size": 5}, "another `batch_size`, 4 where this call has 5"),
    "average": ({"ema": 0.5}, "another `.*`"),
    "augmentation": ({"augment": double}, "another `augment`"),
    "monitor": ({"evaluate": lambda model: {"a": 1.0}, "monitor": "a"}, "another `monitor`"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_and_the_folder_untouched(name, finished):
    options, message = OTHERS[name]
    before = contents(finished)
    with pytest.raises(ValueError, match=message) as caught:
        fit(**({"checkpoint": finished, "steps": 8} | options))
    assert "give a new folder" in str(caught.value)
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["version", "format"])
def test_another_version_is_refused(name, finished, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {name: "0.0.1"}))
    before = contents(folder)
    with pytest.raises(ValueError, match=rf'another `{name}`, "0.0.1" where this call has'):
        fit(checkpoint=folder)
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["other files", "file", "damaged"])
def test_a_folder_of_something_else_is_refused(kind, tmp_path):
    folder = tmp_path / "run"
    if kind == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        (folder / ("config.json" if kind == "damaged" else "thesis.tex")).write_text("{mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="damaged" if kind == "damaged" else "holds other files: give a new folder"):
        fit(checkpoint=folder)
    assert contents(tmp_path) == before


def test_what_a_kill_while_saving_leaves_is_mended(tmp_path):
    undisturbed = fit(validation=0.3, checkpoint=tmp_path / "undisturbed")
    folder = tmp_path / "run"
    folder.mkdir()
    # Killed before the configuration, and before the first checkpoint, was complete.
    (folder / "config.json.part").write_text('{"form')
    fit(validation=0.3, steps=8, checkpoint=folder)
    torn = folder / "checkpoints" / "12.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "manifest.ocdbt").write_text("torn")
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 0.5, "time": 1.0}\n{"step": 16, "lo')
    assert_equal(undisturbed, fit(validation=0.3, checkpoint=folder))
    assert lines(folder) == lines(tmp_path / "undisturbed")
    assert not torn.exists()


def test_a_kill_before_the_first_checkpoint(tmp_path):
    undisturbed = fit(validation=0.3, checkpoint=tmp_path / "run")
    folder = tmp_path / "killed"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "history.jsonl"):
        (folder / name).write_bytes((tmp_path / "run" / name).read_bytes())
    assert_equal(undisturbed, fit(validation=0.3, checkpoint=folder))
    assert lines(folder) == lines(tmp_path / "run")


def test_without_orbax_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install flowprop\[train\]"):
        fit(checkpoint=tmp_path / "run")
    assert contents(tmp_path) == {}
