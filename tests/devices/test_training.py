"""`fit` on eight simulated devices and in two processes: the losses of one device, in processes of their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import CASES, STEPS


#: The others are slow.
QUICK = ["one device", "data of a mesh"]
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "JAX_PLATFORMS": "cpu"}


def start(*arguments):
    command = [sys.executable, "-W", "error", str(HERE / "training.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def result(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    # The library for communication prints lines of its own.
    return dict(json.loads(line) for line in output.splitlines() if line.startswith('["'))


@pytest.fixture(scope="module")
def quick():
    return result(start(*QUICK))


@pytest.fixture(scope="module")
def alone(quick):
    return quick["one device"]


@pytest.fixture(scope="module")
def slow():
    return result(start(*[name for name in CASES if name not in QUICK]))


@pytest.fixture(scope="module")
def processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [start("--process", str(index), port) for index in range(2)]
    try:
        return [result(process) for process in both]
    finally:
        for process in both:
            process.kill()
            process.communicate()


def assert_same(found, alone):
    """Adam divides by the size of a gradient, so that rounding grows along the 100 steps."""
    assert len(alone["losses"]) == STEPS
    for name in ("losses", "validation"):
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["first bias"], alone["first bias"], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES if name != "one device"],
)
def test_the_losses_are_those_of_one_device(name, alone, request):
    found = request.getfixturevalue("quick" if name in QUICK else "slow")[name]
    assert_same(found, alone)
    assert found["devices"] == [8]
    assert any("model" in spec for spec in found["shards"]) == (name == "parameters over an axis")


def test_two_processes_train_one_model(alone, processes):
    for one in processes:
        assert_same(one["together"], alone)
        assert one["together"]["devices"] == [4]
        assert "2 processes run, and `mesh` is not given" in one["without a mesh"]
    assert processes[0]["together"] == processes[1]["together"]
