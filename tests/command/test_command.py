"""The command, from a file to a model and its use."""

import json
import subprocess
import sys

import numpy as np
import pytest

from flowprop._command import main


TINY = ["--steps", "4", "--width", "4", "--depth", "1", "--no-progress"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A table of two columns of large units, and the density of it."""
    folder = tmp_path_factory.mktemp("command")
    x = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 100.0] + [0.0, 5000.0]
    np.savetxt(folder / "data.csv", x, delimiter=",", header="size,mass", comments="")
    words = ["train", str(folder / "data.csv"), "--task", "density", "--output", str(folder / "run"), *TINY]
    assert main(words) == 0
    return folder, words


def test_train_saves_the_model_and_its_results(files):
    folder, _ = files
    results = json.loads((folder / "run" / "results.json").read_text())
    # Six test rows, in the units of the data: the entropy of the columns is near 7.4 nats.
    assert results["model"]["rows"] == 6
    assert -12 < results["model"]["log_likelihood"] < -5
    assert -12 < results["gaussian"]["log_likelihood"] < -5


def test_samples_have_the_columns_and_units(files):
    folder, _ = files
    model, output = str(folder / "run" / "model.fp"), folder / "samples.csv"
    assert main(["sample", model, "-n", "50", "--output", str(output)]) == 0
    assert output.read_text().splitlines()[0] == "size,mass"
    samples = np.loadtxt(output, delimiter=",", skiprows=1)
    assert samples.shape == (50, 2)
    assert 4900 < samples[:, 1].mean() < 5100


def test_log_prob_and_evaluate_agree(files, capsys):
    folder, _ = files
    model, data = str(folder / "run" / "model.fp"), str(folder / "data.csv")
    capsys.readouterr()
    assert main(["log-prob", model, data]) == 0
    header, *values = capsys.readouterr().out.split()
    assert header == "log_prob"
    assert main(["evaluate", model, data]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["log_likelihood"] == pytest.approx(np.mean([float(value) for value in values]), rel=1e-5)


def test_the_same_command_gives_the_same_model_and_another_is_refused(files, capsys):
    folder, words = files
    before = (folder / "run" / "model.fp").read_bytes()
    assert main(words) == 0
    assert (folder / "run" / "model.fp").stat().st_size == len(before)
    assert main([*words, "--seed", "1"]) == 2
    assert "another seed" in capsys.readouterr().err


def test_info_names_the_columns(files, capsys):
    capsys.readouterr()
    assert main(["info", str(files[0] / "run" / "model.fp")]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == ["size", "mass"]


@pytest.mark.parametrize(
    ("task", "measure"), [("classify", "accuracy"), ("regress", "rmse"), ("conditional", "log_likelihood")]
)
def test_every_task(task, measure, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(60, 2)), y=np.arange(60) % 2)
    options = ["--condition", "x", "--columns", "y"] if task == "conditional" else ["--target", "y"]
    words = ["train", tmp_path / "data.npz", "--task", task, "--output", tmp_path / "run", *options, *TINY]
    assert main([str(word) for word in words]) == 0
    assert np.isfinite(json.loads((tmp_path / "run" / "results.json").read_text())["model"][measure])


def test_without_tyro_one_line_says_what_to_install():
    code = "import sys; sys.modules['tyro'] = None; from flowprop._command import main; sys.exit(main(['info', 'x']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines() == ["flowprop: the command needs tyro: pip install 'flowprop[cli]'"]
