"""The code of README and of the pages: README's blocks run and print what they say, and every name of ours exists."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flowprop as fp


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
#: Blocks of README by their heading. These take more than 20 seconds of one core.
SLOW = ["A density in ten lines", "A classifier"]


def python_blocks(page):
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def readme_blocks():
    """README's Python blocks by the headings above them."""
    text = (ROOT / "README.md").read_text()
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        block = re.search(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
        if block:
            found[section.splitlines()[0]] = block[1]
    return found


README = readme_blocks()


def unit_of(number):
    """One unit of the last digit shown; 0 for an integer."""
    digits = number.split("e")[0].partition(".")[2]
    return 10.0 ** -len(digits) if digits else 0.0


def assert_printed(printed, expected):
    """The same text, and numbers within two units of the last digit shown: processors round differently."""
    assert re.sub(r"\s+", "", NUMBER.sub("#", printed)) == re.sub(r"\s+", "", NUMBER.sub("#", expected))
    for got, wanted in zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True):
        assert abs(float(got) - float(wanted)) <= 2 * unit_of(wanted) + 1e-9, f"{printed!r} where {expected!r} is shown"


def test_readme_has_a_block_that_the_default_suite_runs():
    assert set(SLOW) < set(README)
    assert sum(python_blocks(ROOT / "README.md").count(block) for block in README.values()) == len(README)


@pytest.mark.parametrize("heading", [pytest.param(h, marks=pytest.mark.slow) if h in SLOW else h for h in README])
def test_a_block_of_readme_prints_what_it_says(heading, tmp_path):
    """In a process of its own without the suite's compiler flags, as a reader would run it."""
    block = README[heading]
    expected = re.findall(r"^print\(.*\)  # prints (.*)$", block, flags=re.MULTILINE)
    assert len(expected) == block.count("print(") > 0
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    printed = run.stdout.splitlines()
    assert len(printed) == len(expected)
    for got, wanted in zip(printed, expected, strict=True):
        assert_printed(got, wanted)


def chain(node):
    """The names of `a.b.c`, or none if it does not begin with a name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def missing(names):
    """The first name of `fp.a.b` that does not exist; attributes of objects that are made later are not known."""
    value = fp
    for count, name in enumerate(names, start=1):
        if not (inspect.ismodule(value) or inspect.isclass(value)):
            return None
        fields = getattr(value, "__annotations__", {})
        if name not in fields and not hasattr(value, name):
            return ".".join(["fp", *names[:count]])
        if not hasattr(value, name):
            return None
        value = getattr(value, name)
    return None


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_name_on_a_page_exists(page):
    used = [chain(node) for block in python_blocks(page) for node in ast.walk(ast.parse(block))]
    # And those in running text.
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    used += [name.split(".") for name in re.findall(r"(?<![\w./])fp\.[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", text)]
    found = {missing(names[1:]) for names in used if names[:1] == ["fp"] and len(names) > 1}
    # Pages on conformance import it by its own name.
    found |= {missing(names) for names in used if names[:1] == ["conformance"]}
    assert found - {None} == set()


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_code_fits_into_a_column_of_the_site(page):
    long = [line for block in python_blocks(page) for line in block.splitlines() if len(line) > 88]
    assert long == []


def test_links_between_pages_lead_somewhere():
    """Relative links of README and the pages, to files of this repository."""
    lost = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (page.parent / target).exists():
                lost.append(f"{page.name}: {target}")
    assert lost == []
