"""The code of README and of the pages: it runs, prints what is shown, fits the site, and uses names that exist.

`pytest -m "slow or not slow" tests/test_readme.py` runs every block: about a quarter of an hour of one core.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest
from cases import all_but
from pages import NOT_RUN, blocks, run

import flowprop as fp


ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
#: Pages, and blocks of README by number, that take about 20 seconds of one core at most.
QUICK = {"README.md block 1", "docs/api/transforms.md"}
#: What is run together, in one process: the blocks of a page from top to bottom. Those of README stand alone.
RUNS = {f"README.md block {number}": [block] for number, block in enumerate(blocks("README.md"))}
RUNS |= {page: blocks(page) for page in PAGES[1:] if blocks(page) and page != "docs/index.md"}


def unit_of(number):
    """One unit of the last digit shown; 0 for an integer."""
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2])) if "." in digits or exponent else 0.0


def assert_printed(printed, expected):
    """The same text, and numbers within two units of the last digit shown: processors round differently."""
    assert re.sub(r"\s+", "", NUMBER.sub("#", printed)) == re.sub(r"\s+", "", NUMBER.sub("#", expected))
    for got, wanted in zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True):
        slack = max(2 * unit_of(wanted), 0.03 * abs(float(wanted)) * (unit_of(wanted) > 0))
        assert abs(float(got) - float(wanted)) <= slack + 1e-9, f"{printed!r} where {expected!r} is shown"


@pytest.mark.parametrize("name", all_but(QUICK, RUNS))
def test_the_blocks_print_what_is_shown(name):
    ran = [block for block in RUNS[name] if block.is_run]
    for block, printed in zip(ran, run(name, ran), strict=True):
        printed = printed.splitlines()
        assert len(printed) == len(block.shown), f"{block.code}\nprinted {printed}"
        for got, wanted in zip(printed, block.shown, strict=True):
            assert_printed(got, wanted)


def test_home_shows_the_code_of_readme():
    assert {block.code for block in blocks("docs/index.md")} < {block.code for block in blocks("README.md")}


def test_the_tables_name_what_exists():
    assert set(RUNS) > QUICK
    for page, start in NOT_RUN:
        assert [block.code.startswith(start) for block in blocks(page)].count(True) == 1


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


def prose(page):
    """A page without its code."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_a_page_exists(page):
    used = [chain(node) for block in blocks(page) for node in ast.walk(ast.parse(block.code))]
    # And those in running text.
    text = prose(page)
    used += [name.split(".") for name in re.findall(r"(?<![\w./])fp\.[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", text)]
    found = {missing(names[1:]) for names in used if names[:1] == ["fp"] and len(names) > 1}
    # Pages on conformance import it by its own name.
    found |= {missing(names) for names in used if names[:1] == ["conformance"]}
    assert found - {None} == set()


@pytest.mark.parametrize("page", PAGES)
def test_code_fits_into_a_column_of_the_site(page):
    """Python, commands, output and data alike."""
    code = re.findall(r"^```.*?\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for block in code for line in block.splitlines() if len(line) > 88] == []


def test_links_between_pages_lead_somewhere():
    """Relative links of README and the pages, to files of this repository."""
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page)):
            if "://" not in target and not (ROOT / page).parent.joinpath(target).exists():
                lost.append(f"{page}: {target}")
    assert lost == []
