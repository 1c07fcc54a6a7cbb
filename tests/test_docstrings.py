"""Every public name says what it is for, spells out its arguments, and shows an example that runs.

The examples of one module run in one process, each on its own. What they print is compared with the comment that
follows on the same line, if there is one: `print(1 + 1)  # 2`.
"""

import ast
import contextlib
import inspect
import io
import re
from pathlib import Path

import jax
import pytest

import flowprop as fp


MODULES = {
    "flowprop": fp,
    **{f"flowprop.{name}": getattr(fp, name) for name in ("nn", "data", "metrics", "plot", "conformance")},
}
#: Public name -> the object.
NAMES = {
    f"{module_name}.{name}": value
    for module_name, module in MODULES.items()
    for name, value in vars(module).items()
    if not name.startswith("_")
    and (inspect.isclass(value) or inspect.isroutine(value))
    and (value.__module__ or "").startswith("flowprop")
}
#: Turns of phrase that a reader whose first language is another stumbles over.
OBLIQUE = re.compile(r"[Aa]s of (?=[`\[]|that|those|v )|\bwhence\b|\bhears? of\b|\bwould else\b|\belse, |\bleans? on\b")
#: Interfaces are for deriving from: they say what a class of one's own defines, and need no example.
ABSTRACT = {name for name in NAMES if name.split(".")[-1].startswith("Abstract")}


def parameters(value):
    """The arguments that a caller may give, of a function or a constructor."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    return [name for name in signature.parameters if name not in ("self", "args", "kwargs")]


def text_of(value):
    """A class's documentation: its own, and that of its constructor."""
    text = inspect.cleandoc(value.__doc__ or "")
    if inspect.isclass(value):
        text += "\n" + inspect.cleandoc(value.__init__.__doc__ or "" if "__init__" in vars(value) else "")
    return text


def unexplained(value):
    """The arguments that the documentation does not list as "- `name`: ..."."""
    listed = set(
        re.findall(
            r"`([A-Za-z_0-9]+)`", " ".join(re.findall(r"^\s*- ((?:`[^`]+`(?:, | and )?)+)", text_of(value), re.M))
        )
    )
    return [name for name in parameters(value) if name not in listed]


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("name", sorted(NAMES))
class TestEveryPublicName:
    def test_it_explains_every_argument(self, name):
        assert unexplained(NAMES[name]) == []

    def test_it_says_what_comes_back(self, name):
        value = NAMES[name]
        if inspect.isroutine(value) and inspect.signature(value).return_annotation not in (
            None,
            inspect.Signature.empty,
        ):
            assert "**Returns:**" in text_of(value)

    def test_it_is_in_plain_english(self, name):
        value = NAMES[name]
        texts = [text_of(value)]
        if inspect.isclass(value):
            texts += [inspect.getdoc(member) or "" for key, member in vars(value).items() if not key.startswith("_")]
        assert [found for text in texts for found in OBLIQUE.findall(text)] == []

    def test_it_has_an_example(self, name):
        if name not in ABSTRACT:
            assert blocks(text_of(NAMES[name]))


ROOT = Path(fp.__file__).parent


def examples(path):
    """The examples of a file, each with the name of what it belongs to."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
            for code in blocks(inspect.cleandoc(ast.get_docstring(node) or "")):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}", code


EXAMPLES = [example for path in sorted(ROOT.rglob("*.py")) for example in examples(path)]


@pytest.mark.parametrize(("place", "code"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_the_example_runs(place, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), jax.numpy_rank_promotion("allow"):
        exec(compile(code, place, "exec"), {"__name__": "example"})
    wanted = [
        line.split("  # ", 1)[1].strip()
        for line in code.splitlines()
        if re.match(r"\s*print\(", line) and "  # " in line
    ]
    if wanted:
        assert printed.getvalue().splitlines() == wanted
