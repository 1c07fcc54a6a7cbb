"""A check of what a package needs, and says it needs."""

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
    """Every package that is imported is in the standard library or declared as a dependency, optional ones included.

    **Arguments:**

    - `folder`: the package's, whose name is the package's.
    - `requirements`: what it declares, such as `importlib.metadata.requires("flowprop")`.
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
    """The packages that its files import, wherever in them, but by relative imports."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    return {name.split(".")[0] for name in names}


def _normal(name: str) -> str:
    """As package indices compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()
