"""Data larger than memory: memory-mapped files, and iterables of ragged batches."""

import os
import subprocess
import sys
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._train.batches import Stream


KEY = jax.random.key(5)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


class Model(eqx.Module):
    weight: jax.Array

    def loss(self, x, *, key):
        return jnp.mean(jnp.square(x @ self.weight - 1 + 0.1 * jax.random.normal(key, x.shape[:1])))


traces = []


class Visits(eqx.Module):
    """With SGD at learning rate 1, each number decreases by 1 each time its row is used."""

    counts: jax.Array

    def loss(self, rows, *, key):
        traces.append(rows.shape)
        return jnp.sum(self.counts[rows])


class Again:
    def __init__(self, *items):
        self._items = items

    def __iter__(self):
        return iter(self._items)


def fit(model, data, optimiser=None, **options):
    defaults = {"steps": 12, "batch_size": 4, "key": KEY, "progress": False}
    return fp.fit(model, data, optax.sgd(1.0) if optimiser is None else optimiser, **(defaults | options))


@pytest.mark.parametrize("validation", [None, 0.3])
def test_memory_mapped_is_in_memory_bit_for_bit(validation, tmp_path):
    np.save(tmp_path / "x.npy", X)
    found = [
        fit(Model(jnp.zeros(3)), data, optax.adam(0.1), validation=validation, steps_per_call=5)
        for data in (X, np.load(tmp_path / "x.npy", mmap_mode="r"))
    ]
    np.testing.assert_array_equal(found[0][0].weight, found[1][0].weight)
    for name, values in found[0][1].items():
        np.testing.assert_array_equal(values, found[1][1][name])


def test_ragged_batches_lose_and_repeat_no_row_and_compile_once():
    rows = np.arange(30)
    data = Again(*np.split(rows, [7, 8, 20, 23]))
    traces.clear()
    model, _ = fit(Visits(jnp.zeros(30)), data, steps=15, batch_size=4, steps_per_call=4)
    np.testing.assert_array_equal(model.counts, -2.0)
    # Once for its shapes, once in the loop.
    assert len(traces) <= 3
    assert {*traces} <= {(4,)}


def test_batches_of_a_stream_are_its_rows_in_order():
    stream = Stream(Again(*np.split(np.arange(10), [3, 4])), 4)
    np.testing.assert_array_equal(stream.peek()[0], [0, 1, 2])
    first, second = stream.read(0, 2), stream.read(2, 3)
    np.testing.assert_array_equal(np.ravel(first.batches.data[0]), np.arange(8))
    np.testing.assert_array_equal(np.ravel(second.batches.data[0]), np.arange(8, 20) % 10)


def test_a_generator_that_ends_ends_the_training():
    with pytest.warns(UserWarning, match="The end of `data`.* ended the training at step 5 of 12"):
        model, history = fit(Visits(jnp.zeros(22)), iter(np.split(np.arange(22), 2)))
    assert (history.stopped, history["step"][-1]) == ("data", 5)
    np.testing.assert_array_equal(model.counts, np.where(np.arange(22) < 20, -1.0, 0.0))


def test_an_error_in_an_iterator_surfaces_and_the_thread_ends():
    def batches():
        for _ in range(9):
            yield X[:4]
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone") as caught:
        fit(Model(jnp.zeros(3)), batches(), optax.adam(0.1), steps_per_call=2, steps=100)
    done = len(caught.value.history["loss"])
    assert done == int(caught.value.history.state.training.step) > 0
    assert [t.name for t in threading.enumerate() if t.name == "flowprop-batches"] == []


def test_another_shape_in_a_later_batch():
    with pytest.raises(ValueError, match="give all batches the same shapes and types"):
        fit(Model(jnp.zeros(3)), Again(X, X[:, :2]), steps=20)


@pytest.mark.parametrize("library", ["pandas", "polars"])
class TestDataFrames:
    def test_it_is_its_columns(self, library):
        frame = pytest.importorskip(library).DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
        found = [fit(Model(jnp.zeros(3)), data, optax.adam(0.1))[0].weight for data in (X, frame)]
        np.testing.assert_array_equal(*found)

    def test_errors_name_the_column(self, library):
        frame = pytest.importorskip(library).DataFrame
        for column, message in (
            ([0.0, np.nan] * 10, r"`data\[0\]\['b'\]` has nan in row 1 \(and 9 more\)"),
            (["red"] * 20, r"`data\[0\]\['b'\]` has the type object|`data\[0\]\['b'\]` has the type"),
        ):
            with pytest.raises((TypeError, ValueError), match=message):
                fit(Model(jnp.zeros(2)), frame({"a": X[:, 0], "b": column}))


MEMORY = """
import os, resource, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax
import flowprop as fp

class Model(eqx.Module):
    weight: jax.Array
    def loss(self, x, *, key):
        return jnp.mean(jnp.square(x @ self.weight))

def train(data):
    options = dict(steps=100, batch_size=64, key=jax.random.key(0), progress=False)
    fp.fit(Model(jnp.zeros(64)), data, optax.adam(1e-3), **options)

train(np.zeros((100, 64), np.float32))
kind, rows = sys.argv[1], int(sys.argv[2])
data = np.load("x.npy", mmap_mode="r") if kind == "mapped" else np.ones((rows, 64), np.float32)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train(data)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 2**20)
"""


def resident(kind, rows, folder):
    """The growth of the peak memory, in GB."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, kind, str(rows)],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


@pytest.mark.slow
def test_a_file_of_4_gb_needs_less_than_1_5_gb(tmp_path):
    rows = 2**24
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 64)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 256)  # sparse: it takes no disk
    assert resident("mapped", rows, tmp_path) < 1.5


@pytest.mark.slow
def test_an_array_of_256_mb_is_copied_once(tmp_path):
    assert resident("array", 2**20, tmp_path) < 0.25 * 1.5
