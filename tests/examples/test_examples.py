"""The examples with few steps: they run to the end, and write their figures and results.

`docs/results.md` has the results of the long runs, with the commands.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flowprop as fp


EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.slow


def run(name, *arguments, output):
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments, "--output", output]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "cosine", "learnable"])
def test_two_moons(schedule, tmp_path):
    results = run("two_moons", "--protocols", "ct", "df", "--schedule", schedule, "--steps", "1600", output=tmp_path)
    for protocol, row in results.items():
        # 1,600 steps do not give a good density, but a wrong density would be much worse than this.
        assert row["true_log_prob"] - 0.6 < row["log_prob"] < row["true_log_prob"] + 0.02
        assert abs(row["integral"] - 1) < 0.02
        # After 400 steps. DF learns labels slowly: 0.77 to 0.97, four seeds of sigmoid and learnable. Chance is 0.5.
        assert row["accuracy"] > {"ct": 0.97, "df": 0.7}[protocol]
    assert {path.name for path in tmp_path.glob("ct_*.png")} == {
        "ct_density.png",
        "ct_given_class.png",
        "ct_trajectories.png",
        "ct_learning_curve.png",
    }


def test_readme_picture(tmp_path):
    """After 300 steps the flow is not good, but its picture and its numbers are there."""
    command = [sys.executable, EXAMPLES / "readme_picture.py", tmp_path / "picture.png", "--steps", "300"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    flow, truth = (float(line.split()[-4]) for line in lines)
    assert truth - 0.6 < flow < truth
    assert (tmp_path / "picture.png").exists()


def test_mnist_generate(tmp_path):
    results = run("mnist_generate", "--scales", "1", "2", output=tmp_path)
    accuracy = {row["scale"]: row["accuracy"] for row in results["guidance"]}
    assert results["judge"]["accuracy"] > 0.95
    assert accuracy[2.0] > max(accuracy[1.0], 0.95)  # guided digits are clearer, and chance is 0.1
    assert all((tmp_path / f"{name}.png").exists() for name in ("digits", "guidance", "learning_curve"))


def test_likelihood(tmp_path):
    results = run("likelihood", "--products", "12", output=tmp_path)
    deviation = {(row["flow"][0], row["trace"]): row["std"] for row in results["traces"]}
    assert deviation["v", "Hutch++"] < 0.5 * deviation["v", "Hutchinson, signs"]
    for row in results["solver"]:
        # Within a factor of two, or as small as the rounding of single precision.
        assert 0.5 < row["stated"] / row["error"] < 2.0 or row["error"] < 5e-5
    assert 0.55 < results["probes"]["within_one"] < 0.8
    assert {path.name for path in tmp_path.glob("*.png")} == {"traces_0.png", "traces_1.png", "solver.png"}


@pytest.mark.parametrize("protocol", ["fm", "ct"])
def test_digits(protocol, tmp_path):
    results = run("mnist", "--protocol", protocol, "--epochs", "30", output=tmp_path)
    assert results["accuracy"] > 0.95
    assert results["function_evaluations"] <= 20
    assert len(results["sweep"]) == 13
    assert all((tmp_path / f"{name}.png").exists() for name in ("confusion_matrix", "label_trajectories"))


SMALL = ("--channels", "8", "16", "--block-channels", "4", "8", "--num-blocks", "3", "--num-seeds", "1", "--draws", "2")


def test_noprop_table(tmp_path):
    arguments = ("--epochs", "40", "--adjoint-epochs", "8", *SMALL)
    records = {row["method"]: row for row in run("noprop_table", *arguments, output=tmp_path)}
    assert set(records) == {"ordinary", "fm", "ct", "dt", "backprop", "adjoint"}
    for method, row in records.items():
        assert min(row["accuracies"]) > (0.8 if method == "adjoint" else 0.9)
        # Chance is 0.1 with 10 classes. With 360 test images, 0.18 is five standard errors above it.
        assert method == "ordinary" or row["noise_accuracy"] < 0.18
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(kept) == 6
    run("noprop_table", *arguments, output=tmp_path)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    with pytest.raises(subprocess.CalledProcessError):
        run("noprop_table", *arguments, "--learning-rate", "1e-3", output=tmp_path)


def test_noprop_table_with_the_losses_of_the_paper(tmp_path):
    arguments = ("--epochs", "40", *SMALL, "--embeddings", "dim-20", "--objective", "paper")
    records = run("noprop_table", *arguments, "--methods", "ct", "fm", "dt", output=tmp_path)
    assert min(np.mean(row["accuracies"]) for row in records) > 0.6


def test_noprop_table_on_cifar10(tmp_path):
    """A few hundred steps, if the folder in `$FLOWPROP_DATA` has CIFAR-10."""
    try:
        fp.data.cifar10(os.environ.get("FLOWPROP_DATA") or tmp_path)
    except FileNotFoundError:
        pytest.skip("no CIFAR-10 in $FLOWPROP_DATA")
    arguments = ("--dataset", "cifar10", "--steps", "300", *SMALL, "--no-share-encoder", "--augment")
    records = run("noprop_table", *arguments, "--methods", "fm", "dt", "--embeddings", "one-hot", output=tmp_path)
    # Chance is 0.1, with a standard error of 0.003.
    assert min(min(row["accuracies"]) for row in records) > 0.18


def test_two_moons_says_how_long_it_takes(tmp_path):
    """The default run says so in its first line, and saves its first figures before it trains the other flows."""
    arguments = ["--protocols", "fm", "--steps", "8", "--train-points", "1000", "--test-points", "100"]
    command = [sys.executable, EXAMPLES / "two_moons.py", *arguments, "--resolution", "10", "--output", tmp_path]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "about two minutes on two cores" in lines[0]
    assert "--long" in lines[0]
    first_figure = lines.index(f"saved {tmp_path / 'fm_density.png'}")
    assert first_figure < lines.index("fm: point given the class")


def test_an_unknown_protocol_is_refused():
    process = subprocess.run(
        [sys.executable, EXAMPLES / "mnist.py", "--protocol", "dt"], capture_output=True, text=True
    )
    assert process.returncode != 0
    assert "protocol" in process.stderr + process.stdout
