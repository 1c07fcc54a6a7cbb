"""Ctrl-C, SIGTERM and kill: a training that they end goes on to the same bits."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


class Model(eqx.Module):
    weight: jax.Array

    def loss(self, x, *, key):
        return jnp.mean(jnp.square(x @ self.weight - 1 + 0.1 * jax.random.normal(key, x.shape[:1])))


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C as in a terminal: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def fit(**options):
    defaults = {"steps": 24, "batch_size": 4, "key": jax.random.key(5), "evaluate_every": 4, "progress": False}
    return fp.fit(Model(jnp.zeros(3)), X, optax.adam(0.1), **(defaults | options))


def sends(*numbers, at=8):
    """A callback that sends signals to the own process."""

    def callback(report):
        if report.step == at:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.01)  # Python calls handlers between two instructions.

    return callback


def assert_equal(first, second):
    np.testing.assert_array_equal(first[0].weight, second[0].weight)
    assert first[1].keys() == second[1].keys()
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name])


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_ends_a_training_that_goes_on_bit_for_bit(number, name, tmp_path):
    undisturbed = fit(validation=0.3)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    message = f"{name} ended the training at step 12 of 24: .* Call `fit` again to go on"
    with pytest.warns(UserWarning, match=message):
        _, history = fit(validation=0.3, checkpoint=tmp_path / "run", callbacks=sends(number))
    assert (history.stopped, history["step"][-1]) == ("interrupted", 12)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    # From the folder, and from the state.
    assert_equal(undisturbed, fit(validation=0.3, checkpoint=tmp_path / "run"))
    assert_equal(undisturbed, fit(validation=0.3, state=history.state))


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(checkpoint=tmp_path / "run", callbacks=sends(signal.SIGINT, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is handler
    assert caught.value.history["step"][-1] == 8
    assert_equal(fit(), fit(checkpoint=tmp_path / "run"))


def test_handlers_of_others_stay_and_threads_have_none():
    seen = []
    mine = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        _, history = fit(callbacks=sends(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert (seen, history.stopped) == (["mine"], "steps")
    handlers, found = [], []
    thread = threading.Thread(
        target=lambda: found.append(fit(callbacks=lambda _: handlers.append(signal.getsignal(signal.SIGINT))))
    )
    thread.start()
    thread.join()
    assert found[0][1]["step"][-1] == 24
    assert {*handlers} == {signal.getsignal(signal.SIGINT)}


SCRIPT = """
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowprop as fp
from test_interrupt import Model, X

print("begins", flush=True)
model, history = fp.fit(
    Model(jnp.zeros(3)),
    X,
    optax.adam(0.1),
    steps=400,
    batch_size=4,
    key=jax.random.key(5),
    ema=0.9,
    validation=0.3,
    evaluate_every=10,
    steps_per_call=5,
    checkpoint=sys.argv[1],
    checkpoint_every=15,
    callbacks=lambda report: time.sleep(float(sys.argv[2])),
    progress=False,
)
np.savez(sys.argv[1] + "/result.npz", weight=model.weight, **history)
"""


def process(folder, pause):
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(os.path.dirname(here)), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(pause)],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 20])
def test_a_process_that_is_killed_ends_in_the_same_parameters(kills, tmp_path):
    (tmp_path / "undisturbed").mkdir()
    other = process(tmp_path / "undisturbed", 0.0)
    draw = random.Random(kills)
    hit = 0
    for _ in range(kills):
        killed = process(tmp_path / "run", 0.05)
        killed.stdout.readline()
        time.sleep(draw.uniform(0.2, 4.0))
        hit += killed.poll() is None
        killed.kill()
        killed.communicate()
    for running in (other, process(tmp_path / "run", 0.0)):
        running.communicate()
        assert running.returncode == 0
    with np.load(tmp_path / "undisturbed/result.npz") as first, np.load(tmp_path / "run/result.npz") as second:
        assert {*first} == {*second}
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
    assert hit > kills // 2


def test_no_warning_without_a_signal():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(steps=2)[1].stopped == "steps"
