"""The example in the plane, shortened: its records, that it goes on where it stopped, and that couplings show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


EXAMPLE = Path(__file__).parents[2] / "examples" / "density_2d.py"
TRIAL = ("--steps", "300", "--test-points", "500", "--num-seeds", "1")
pytestmark = pytest.mark.slow


def run(output, *arguments):
    command = [sys.executable, EXAMPLE, *TRIAL, *arguments, "--output", output]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    records = json.loads((output / "results.json").read_text())
    return {(row["task"], row["coupling"]): row for row in records}


def test_transport(tmp_path):
    records = run(tmp_path, "--parts", "transport")
    assert len(records) == 8
    for (task, coupling), row in records.items():
        # 300 steps are few; without any, it would be the distance of source and data, 2 and more.
        assert row["w2"] < row["floor"] + 2.5
        if coupling == "ot":
            assert row["npe"] < records[task, "independent"]["npe"] + 0.1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    run(tmp_path, "--parts", "transport")
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, "--parts", "transport", "--test-points", "400")


def test_some_rows_with_noise_on_their_paths(tmp_path):
    records = run(tmp_path, "--parts", "transport", "--tasks", "N -> moons", "--path-noise", "1.0")
    assert list(records) == [("N -> moons", "independent"), ("N -> moons", "ot")]
    # The path energy is 0.77 without: so wide a blur leaves the two distributions little to do.
    assert records["N -> moons", "independent"]["npe"] < 0.4


def test_condition(tmp_path):
    records = run(tmp_path, "--parts", "condition")
    assert len(records) == 8
    # Given the first coordinate it is all but known where to go; plain transport starts from the wrong noise.
    assert records["coordinate", "aware"]["w2"] < records["coordinate", "ot"]["w2"]


def test_likelihood(tmp_path):
    records = run(tmp_path, "--parts", "likelihood", "--recipe")
    assert len(records) == 10
    for row in records.values():
        assert row["true_log_prob"] - 1 < row["log_prob"] < row["true_log_prob"] + 0.1
    assert len(list(tmp_path.glob("likelihood-*.png"))) == 10
