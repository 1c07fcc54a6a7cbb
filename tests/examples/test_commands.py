"""The examples as installed commands: each command names an example, and the examples import each other both ways."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import flowprop as fp


ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
EXAMPLES = [path.stem for path in (ROOT / "examples").glob("*.py") if "\ndef main() -> None:" in path.read_text()]


def test_every_example_has_a_command():
    commands = {f"flowprop-{name.replace('_', '-')}": f"flowprop_examples:run_{name}" for name in EXAMPLES}
    assert len(commands) == 8
    assert commands.items() <= SCRIPTS.items()


def test_the_commands_run(tmp_path):
    """As in the wheel: the folder is the package `flowprop_examples`, and flowprop is elsewhere."""
    shutil.copytree(ROOT / "examples", tmp_path / "flowprop_examples")
    code = """
import sys, flowprop_examples

for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        getattr(flowprop_examples, "run_" + name)()
    except SystemExit as stop:
        assert stop.code == 0, stop.code
"""
    path = os.pathsep.join([str(tmp_path), str(Path(fp.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", code, *EXAMPLES]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("--output") >= len(EXAMPLES)


def test_a_missing_extra_is_named(tmp_path):
    """Without the extra `examples`, a command ends with one line that says what to install."""
    shutil.copytree(ROOT / "examples", tmp_path / "flowprop_examples")
    code = "import sys; sys.modules['tyro'] = None; import flowprop_examples; flowprop_examples.run_two_moons()"
    path = os.pathsep.join([str(tmp_path), str(Path(fp.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines() == ["this example needs tyro: pip install 'flowprop[examples]'"]
