"""The example `density_2d.py` with few steps: its records, how it continues after a stop, and effects of couplings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


EXAMPLE = Path(__file__).parents[2] / "examples" / "density_2d.py"
TRIAL = ("--long", "--steps", "300", "--test-points", "500", "--num-seeds", "1")
pytestmark = pytest.mark.slow


def run(output, *arguments):
    command = [sys.executable, EXAMPLE, *TRIAL, *arguments, "--output", output]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    records = json.loads((output / "results.json").read_text())
    return {(row["task"], row["coupling"]): row for row in records}


def test_transport_and_continuing(tmp_path):
    records = run(tmp_path, "--parts", "transport")
    assert len(records) == 8
    for (task, coupling), row in records.items():
        # After 300 steps. Without training it would be the distance of source and data, which is at least 2.
        assert row["w2"] < row["floor"] + 2.5
        if coupling == "ot":
            assert row["npe"] < records[task, "independent"]["npe"] + 0.1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    run(tmp_path, "--parts", "transport")
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, "--parts", "transport", "--test-points", "400")


def test_chosen_rows_with_path_noise(tmp_path):
    records = run(tmp_path, "--parts", "transport", "--tasks", "N -> moons", "--path-noise", "1.0")
    assert list(records) == [("N -> moons", "independent"), ("N -> moons", "ot")]
    # Without the noise the path energy is 0.77. The noise makes source and data similar.
    assert records["N -> moons", "independent"]["npe"] < 0.4


def test_condition(tmp_path):
    records = run(tmp_path, "--parts", "condition")
    assert len(records) == 8
    # The first coordinate determines the target nearly completely. Plain transport starts from the wrong noise.
    assert records["coordinate", "aware"]["w2"] < records["coordinate", "ot"]["w2"]


def test_likelihood(tmp_path):
    records = run(tmp_path, "--parts", "likelihood", "--recipe")
    assert len(records) == 10
    for row in records.values():
        assert row["true_log_prob"] - 1 < row["log_prob"] < row["true_log_prob"] + 0.1
    assert len(list(tmp_path.glob("likelihood-*.png"))) == 10


def test_the_default_run_has_a_row_of_each_table(tmp_path):
    command = [sys.executable, EXAMPLE, "--steps", "100", "--test-points", "200", "--output", tmp_path]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    records = json.loads((tmp_path / "results.json").read_text())
    assert [row["part"] for row in records] == ["transport"] * 2 + ["condition"] * 3 + ["likelihood"] * 2
    assert {row["task"] for row in records} == {"N -> moons", "moon", "two moons"}
