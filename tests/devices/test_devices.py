"""Every function on eight simulated devices, in a process of its own, by `eight_devices.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from eight_devices import BATCH, CASES, DEVICES, FUNCTIONS, KINDS, ROWS, collectives
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec as P

import flowprop as fp


HERE = Path(__file__).parent
#: These ask, outside of `jax.jit`, whether any row has failed: one truth value from each device.
CHECKS = ["Classifier.predict", "estimate_log_prob", "reflow_pairs"]
#: `reflow_pairs` cannot do without this check, which in compiled code needs a call of the host.
ALL = [
    f"{function} | {kind}"
    for function in FUNCTIONS
    for kind in KINDS
    if function != "reflow_pairs" or not kind.startswith(("jit", "shard_map"))
]
#: Two kinds of meshes, and one of each of the others.
QUICK = [
    "log_prob | automatic",
    "log_prob | explicit",
    "sample | explicit",
    "blocks, automatic",
    "shard_map with checks",
    "gradient",
    "model in jit",
]
SLOW = [name for name in [*ALL, *CASES] if name not in QUICK]


def run(names):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-W", "error", str(HERE / "eight_devices.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def quick():
    return run(QUICK)


@pytest.fixture(scope="module")
def slow():
    return run(SLOW)


@pytest.fixture
def found(request):
    """What one case gave. The first one of its kind runs all others too."""

    def of(name):
        return request.getfixturevalue("quick" if name in QUICK else "slow")[name]

    return of


def named(names):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def assert_equal_to_one_device(found, tolerance=2e-6):
    """Rounding differs with the number of rows in a matrix product, by a few units in the last place."""
    assert "raised" not in found, found
    assert found["error"] <= tolerance * max(1, found["largest"])


def assert_spread(found, axes, rows=ROWS // DEVICES):
    assert found["rows"] == [rows]
    assert found["axes"] == [axes]


@pytest.mark.parametrize("name", named(ALL))
def test_each_device_computes_its_own_rows(name, found):
    found = found(name)
    # Adaptive steps of relative tolerance 1e-5 depend on the rounding, and probabilities of classes amplify it.
    tolerance = 1e-4 if "adaptive" in name else 2e-5 if "proba" in name else 2e-6
    assert_equal_to_one_device(found, tolerance)
    assert_spread(found, "Explicit" if "explicit" in name else "Auto")
    # No device has an array of all rows, or of all rows of a batch.
    assert not {ROWS, BATCH} & set(found["lengths"])
    if "jit automatic" not in name:
        checks = name.split(" | ")[0] in CHECKS
        assert [step for step in found["collectives"] if not (checks and "pred[]" in step)] == []


@pytest.mark.parametrize("name", named([name for name in CASES if "samples" in name]))
def test_samples_without_conditions(name, found):
    found = found(name)
    assert_equal_to_one_device(found)
    assert_spread(found, "Explicit" if "explicit" in name else "Auto")
    assert ROWS not in found["lengths"]


@pytest.mark.parametrize("name", named([name for name in CASES if "parameters" in name]))
def test_spread_parameters(name, found):
    found = found(name)
    assert_equal_to_one_device(found)
    assert_spread(found, "Auto", ROWS // (4 if "another" in name else 8))


@pytest.mark.parametrize("name", named(["gradient", "model in jit"]))
def test_a_traced_model_of_spread_data(name, found):
    assert_equal_to_one_device(found(name))


def test_communication_is_found():
    """Also that of several arrays at once, whose types a comment counts."""
    several = "%all-to-all.1 = (f32[4]{0}, /*index=5*/f32[4]{0}) all-to-all(%a, %b), channel_id=1"
    one, used = "%b = pred[] all-reduce-start(%a)", "%c = f32[4] get-tuple-element(%all-to-all.1), index=0"
    assert collectives(f"  {several}\n  {one}\n  {used}") == [several, one]


@pytest.mark.parametrize("name", named([name for name in CASES if "blocks" in name]))
def test_blocks_train_without_communication(name, found):
    found = found(name)
    assert_equal_to_one_device(found)
    assert_spread(found, "Explicit" if "explicit" in name else "Auto", 1)
    assert found["collectives"] == []


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        pytest.param("model elsewhere", "ValueError", "incompatible devices", marks=pytest.mark.slow),
        ("shard_map with checks", "TypeError", "check_vma=False"),
        pytest.param("failed rows", "RuntimeError", f"1 of {ROWS} rows ({ROWS - 1})", marks=pytest.mark.slow),
    ],
)
def test_errors(name, error, words, found):
    found = found(name)
    assert found["raised"] == error
    assert words in found["message"]


EIGHT, TWO_AXES = AbstractMesh((8,), ("rows",)), AbstractMesh((4, 2), ("rows", "model"))


@pytest.mark.parametrize(
    ("mesh", "spec", "words"),
    [
        (EIGHT, P("rows"), "`num_samples` is 10 where `out_sharding` splits the samples 8 ways"),
        (TWO_AXES, P(("rows", "model")), "`num_samples` is 10 where `out_sharding` splits the samples 8 ways"),
        (EIGHT, P(), "`out_sharding` has the spec"),
        (EIGHT, P(None, "rows"), "`out_sharding` has the spec"),
        (TWO_AXES, P("model", "rows"), "`out_sharding` has the spec"),
    ],
)
def test_a_sharding_that_cannot_split_samples(mesh, spec, words, key):
    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    for draw in (fp.sample, fp.sample_and_log_prob):
        with pytest.raises(ValueError, match="out_sharding") as caught:
            draw(flow, 10, key=key, out_sharding=NamedSharding(mesh, spec))
        assert words in str(caught.value)


def test_one_device(key):
    """The same program runs on a mesh of one device."""
    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    spread = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("rows",)), P("rows"))
    samples = fp.sample(flow, 10, key=key, out_sharding=spread)
    assert samples.sharding.is_equivalent_to(spread, samples.ndim)
    np.testing.assert_allclose(samples, fp.sample(flow, 10, key=key), atol=1e-6)
