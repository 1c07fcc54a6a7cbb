"""A check that a package declares the packages that it imports."""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .._types import PRNGKey, checked
from ._check import AbstractCheck, Report


@checked
@dataclass(frozen=True)
class ImportsAreDeclared(AbstractCheck):
    """Checks that a package declares every package that it imports, as a required or an optional dependency.

    It catches a package that works on its author's machine only, because it imports something that installing it does
    not bring in. Modules of the standard library need no declaration. Names are compared in their normalised form
    ([PEP 503](https://peps.python.org/pep-0503/)).

    **Arguments:**

    - `folder`: the folder of the package. Its name must be the name under which the package is imported.
    - `requirements`: the declared dependencies, such as `importlib.metadata.requires("flowprop")`.

    ```python
    import importlib.metadata
    from pathlib import Path

    import flowprop as fp
    import jax

    folder = Path(fp.__file__).parent
    requirements = importlib.metadata.requires("flowprop")
    right = fp.conformance.ImportsAreDeclared(folder, requirements)
    wrong = fp.conformance.ImportsAreDeclared(folder, ["jax"])
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    folder: Path
    requirements: Sequence[str]

    def measure(self, *, key: PRNGKey) -> Report:
        declared = {_normal(re.split(r"[^\w.-]", requirement.strip())[0]) for requirement in self.requirements}
        known = {self.folder.name, *sys.stdlib_module_names}
        distributions = importlib.metadata.packages_distributions()
        undeclared = [
            name
            for name in sorted(_imported(self.folder) - known)
            if not declared & {_normal(distribution) for distribution in distributions.get(name, [name])}
        ]
        what = "packages imported and not declared" + (f": {', '.join(undeclared)}" if undeclared else "")
        return self.report(what, len(undeclared), most=0)


def _imported(folder: Path) -> set[str]:
    """The packages that the files of a folder import, anywhere in a file. Relative imports are left out."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    return {name.split(".")[0] for name in names}


def _normal(name: str) -> str:
    """A package name in its normalised form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
