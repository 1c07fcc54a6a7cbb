"""The examples, shortened: that they run to the end and write what design and README promise.

What they reach when run in full is in `docs/results.md`, with the commands.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.slow


def run(name, *arguments, output):
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments, "--output", output]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "cosine", "learnable"])
def test_two_moons(schedule, tmp_path):
    results = run("two_moons", "--protocols", "ct", "df", "--schedule", schedule, "--steps", "800", output=tmp_path)
    for row in results.values():
        # 800 steps do not make a good density; a wrong one would be far worse than this.
        assert row["true_log_prob"] - 0.6 < row["log_prob"] < row["true_log_prob"] + 0.02
        assert abs(row["integral"] - 1) < 0.02
        assert row["accuracy"] > 0.97
    assert {path.name for path in tmp_path.glob("ct_*.png")} == {
        "ct_density.png",
        "ct_given_class.png",
        "ct_trajectories.png",
        "ct_learning_curve.png",
    }


@pytest.mark.parametrize("protocol", ["fm", "ct"])
def test_digits(protocol, tmp_path):
    results = run("mnist", "--dataset", "digits", "--protocol", protocol, "--epochs", "30", output=tmp_path)
    assert results["accuracy"] > 0.95
    assert results["function_evaluations"] <= 20
    assert len(results["sweep"]) == 13
    assert all((tmp_path / f"{name}.png").exists() for name in ("confusion_matrix", "label_trajectories"))


def test_refused_arguments():
    process = subprocess.run(
        [sys.executable, EXAMPLES / "mnist.py", "--protocol", "dt"], capture_output=True, text=True
    )
    assert process.returncode != 0
    assert "protocol" in process.stderr + process.stdout
