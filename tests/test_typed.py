"""The types of flowprop reach the programs of its users: mypy reads them from the installed package (PEP 561)."""

import os
import site
import subprocess
import sys
from pathlib import Path

import flowprop as fp


PROGRAM = """
import flowprop as fp

reveal_type(fp.sample)
reveal_type(fp.nn.MLP)
"""
#: mypy reads flowprop alone: with JAX and the others it takes ten times as long.
SETTINGS = """
[mypy]
[mypy-jax.*,jaxtyping.*,equinox.*,diffrax.*,optax.*,lineax.*,numpy.*,tqdm.*,beartype.*]
follow_imports = skip
"""


def test_mypy_sees_the_signatures_in_a_users_program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    # An environment with flowprop installed. There, without `py.typed`, mypy takes every name for Any.
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("[Ll]ib/**/site-packages")
    (packages / "flowprop").symlink_to(Path(fp.__file__).parent, target_is_directory=True)
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    (interpreter,) = [path for path in environment.glob("*/python*") if path.stem == "python"]
    command = [sys.executable, "-m", "mypy", "--python-executable", interpreter, "--cache-dir", "cache", "program.py"]
    variables = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    run = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    sample, mlp = [line for line in run.stdout.splitlines() if "Revealed type" in line]
    assert "(flow: flowprop._flow.flow.Flow, num_samples: int" in sample
    assert "flowprop.nn._mlp.MLP" in mlp
