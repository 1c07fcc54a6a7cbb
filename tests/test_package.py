"""The layout: who imports whom, what `import flowprop` costs, and that every public name says what it is."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flowprop as fp


ROOT = Path(fp.__file__).parent
#: The files and folders of the core. Each imports only from those above it.
ORDER = [
    "_checked",
    "_types",
    "_devices",
    "_batch",
    "_rows",
    "_frozen",
    "_transform",
    "_path",
    "_loss",
    "_flow",
    "_divergence",
    "_solve",
    "_likelihood",
    "_labels",
    "_checkpoint",
    "_train",
    "_posterior",
    "_command",
]
PARTS = sorted(path.stem for path in ROOT.glob("_[a-z]*"))
FILES = sorted(ROOT.rglob("*.py"))


def part_of(path):
    """The file or folder at the top of the package that holds a file."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """The absolute names of the modules that a file imports, wherever in it."""
    package = ("flowprop", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from . import data` imports a module by the name that follows.
            found |= {module} if node.module else {f"{module}.{name.name}" for name in node.names}
    return found


def python(code):
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        cwd=ROOT.parent,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


class TestLayout:
    def test_every_part_is_in_the_order(self):
        assert set(PARTS) == set(ORDER)

    @pytest.mark.parametrize("part", PARTS)
    def test_a_part_imports_only_from_above(self, part):
        names = [name.split(".") for path in FILES if part_of(path) == part for name in imports(path)]
        within = {".".join(name[:2]) for name in names if name[0] == "flowprop"}
        # In particular neither `nn` nor `data` nor `plot`, which are optional to the core. Only `fit_posterior` has a
        # default network.
        allowed = [*ORDER[: ORDER.index(part)], part, *(["nn"] if part == "_posterior" else [])]
        # The command is a user of the library.
        assert within <= {f"flowprop.{name}" for name in allowed} | ({"flowprop"} if part == "_command" else set())

    def test_only_solve_imports_diffrax(self):
        users = [path for path in FILES if any(name.split(".")[0] == "diffrax" for name in imports(path))]
        assert {part_of(path) for path in users} == {"_solve"}

    def test_only_plot_knows_matplotlib(self):
        users = [path for path in FILES if any(name.split(".")[0] == "matplotlib" for name in imports(path))]
        assert {path.parent.name for path in users} == {"plot"}

    def test_no_pickle(self):
        """Neither imported nor asked of NumPy."""
        unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        assert [path.name for path in FILES if {name.split(".")[0] for name in imports(path)} & unsafe] == []
        allowed = [path.name for path in FILES if re.search(r"allow_pickle\s*=\s*(?!False)", path.read_text())]
        assert allowed == []


#: What an import of flowprop brings, as JSON. One process answers all questions, since it takes seconds to import JAX.
IMPORT = """
import jax, diffrax, equinox, optax, json, sys
import jax._src.xla_bridge as bridge
before = set(sys.modules)
import flowprop
new, initialised = set(sys.modules) - before, bridge.backends_are_initialized()
flowprop.plot
print(json.dumps({"new": sorted(new), "initialised": initialised, "plot": "flowprop.plot" in sys.modules}))
"""


@pytest.fixture(scope="module")
def imported():
    return json.loads(python(IMPORT))


class TestImport:
    def test_pulls_in_only_tqdm_beside_its_dependencies(self, imported):
        """Names, not seconds: a share of the import's time changes with the other work of the machine."""
        packages = {name.split(".")[0] for name in imported["new"]}
        assert packages - sys.stdlib_module_names == {"flowprop", "tqdm"}

    def test_runs_nothing_on_the_device(self, imported):
        """An import that makes an array picks the backend before the user has configured it."""
        assert imported["initialised"] is False

    def test_plot_comes_when_it_is_asked_for(self, imported):
        assert "flowprop.plot" not in imported["new"]
        assert imported["plot"] is True

    def test_an_unknown_name_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            fp.nonsense  # noqa: B018


def public(module):
    """Its public names; the tests' import hook adds jaxtyping to them."""
    names = [name for name in vars(module) if not name.startswith("_") and name != "jaxtyping"]
    return {f"{module.__name__}.{name}": getattr(module, name) for name in names}


MODULES = {
    "flowprop": fp,
    "flowprop.nn": fp.nn,
    "flowprop.data": fp.data,
    "flowprop.metrics": fp.metrics,
    "flowprop.conformance": fp.conformance,
}
NAMES = {name: value for module in MODULES.values() for name, value in public(module).items()}
CLASSES = {name: value for name, value in NAMES.items() if inspect.isclass(value)}


class TestDocstrings:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_public_name_has_one(self, name):
        own = NAMES[name].__doc__
        assert own
        # Neither the one that a dataclass or a named tuple makes up.
        assert not own.startswith(f"{name.split('.')[-1]}(")

    @pytest.mark.parametrize("name", CLASSES)
    def test_every_public_method_has_one(self, name):
        methods = {key: value for key, value in vars(CLASSES[name]).items() if not key.startswith("_")}
        bare = [
            key
            for key, value in methods.items()
            if (inspect.isroutine(value) or isinstance(value, property) or hasattr(value, "__wrapped__"))
            and not inspect.getdoc(getattr(CLASSES[name], key))
        ]
        assert bare == []

    @pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
    def test_every_file_says_its_job(self, path):
        assert ast.get_docstring(ast.parse(path.read_text()))


#: Names that acceptance programs use.
CONTRACT = """
    CondOTPath VPPath LinearNoiseSchedule CosineNoiseSchedule SigmoidNoiseSchedule LearnableNoiseSchedule
    TargetPrediction NoisePrediction VelocityPrediction PreconditionedPrediction CategoricalPrediction
    Flow fm_flow ct_flow df_flow ODEIntegrator SDEIntegrator ExactDivergence HutchinsonDivergence
    sample log_prob solve function_evaluations one_hot_embedding learned_embedding orthogonal_embedding
    prototype_embedding Classifier NoPropDT Frozen
    Standardise Whiten Bounded Positive Circular Chain Dequantise
    fit save load nn data metrics conformance plot
"""


def test_the_contract_of_public_names():
    assert [name for name in CONTRACT.split() if not hasattr(fp, name)] == []


def test_keys_are_never_made_inside():
    """A library that made its own keys could not be reproduced. (Examples in docstrings and messages are strings.)"""
    calls = [
        f"{path.name}:{node.lineno}"
        for path in FILES
        # A command makes its keys from the seed that its user gives.
        if part_of(path) != "_command"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("key", "PRNGKey")
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "random"
    ]
    assert calls == []
