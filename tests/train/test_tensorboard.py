"""The event files of `fp.TensorBoard`, read back."""

import struct
import sys

import jax
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event

import flowprop as fp


def events(folder):
    """The points of all event files: name -> list of (step, value), in the order in which they were written."""
    found, restarts = {}, []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += size + 16
            if event.HasField("session_log"):
                restarts.append(event.step)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found, restarts


def train(folder, steps):
    points = jax.random.normal(jax.random.key(0), (40, 2))
    flow = fp.fm_flow(fp.nn.MLP((2,), width=2, depth=1, key=jax.random.key(1)), shape=(2,))
    board = fp.TensorBoard(folder / "events")
    _, history = fp.fit(
        flow,
        points,
        optax.adam(1e-2),
        steps=steps,
        batch_size=8,
        key=jax.random.key(2),
        validation=0.2,
        evaluate_every=4,
        checkpoint=folder / "run",
        callbacks=board,
        progress=False,
    )
    board.close()
    return history


def test_the_numbers_of_each_evaluation(tmp_path):
    train(tmp_path, 8)
    history = train(tmp_path, 16)
    found, restarts = events(tmp_path / "events")
    assert found.keys() == {"loss", "validation_loss"}
    steps, losses = zip(*found["validation_loss"], strict=True)
    assert steps == (0, 4, 8, 12, 16)
    np.testing.assert_allclose(losses, history["validation_loss"], rtol=1e-6)
    np.testing.assert_allclose([v for _, v in found["loss"]], history["loss"].reshape(4, 4).mean(axis=1), rtol=1e-5)
    # At these steps a file begins: TensorBoard drops what earlier files have from there on.
    assert restarts == [0, 12]


def test_without_tensorboardx_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install flowprop\[tensorboard\]"):
        fp.TensorBoard(tmp_path)
