"""The Python blocks of a page: read them, run them from top to bottom in one namespace, show what they print.

What a block prints stands behind its prints, as in `print(2 + 1)  # prints 3`, or in a block of the kind `text` right
below it. After you changed a page, this writes such blocks anew:

    python tests/pages.py docs/guide/training.md
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
#: Blocks that the tests do not run, by page and beginning, with the reason. The page gives the reason too.
NOT_RUN = {
    ("docs/guide/images.md", "images, labels, test_images, test_labels = fp.data.mnist()"): "downloads MNIST",
    ("docs/api/flows.md", "import blackjax"): "BlackJAX is not installed with the development dependencies",
    ("docs/guide/posteriors.md", "import blackjax"): "BlackJAX is not installed with the development dependencies",
}


@dataclass
class Block:
    """A block of Python, and what the page says it prints."""

    page: str
    code: str
    output: str | None

    @property
    def is_run(self) -> bool:
        return not any(page == self.page and self.code.startswith(start) for page, start in NOT_RUN)

    @property
    def shown(self) -> list[str]:
        """The lines that it prints, according to the page."""
        if self.output is not None:
            return self.output.splitlines()
        return re.findall(r"^ *print\(.*\)  # prints (.*)$", self.code, flags=re.MULTILINE)


def blocks(page: str) -> list[Block]:
    """The Python blocks of a page, by its path from the root of the repository."""
    return [Block(page, found["code"], found["output"]) for found in BLOCK.finditer((ROOT / page).read_text())]


def run(page: str, chosen: list[Block]) -> list[str]:
    """What each block prints, all of them in one process of their own, as a reader would run them."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    if page == "docs/guide/devices.md":  # as its second paragraph says
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    with tempfile.TemporaryDirectory() as folder:
        codes = [block.code for block in chosen]
        # A dependency that the installer has not compiled may warn of its source.
        command = [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:invalid escape",
            "-W",
            "ignore::SyntaxWarning",
            __file__,
            "--blocks",
        ]
        process = subprocess.run(
            command, input=json.dumps([page, codes]), capture_output=True, text=True, env=environment, cwd=folder
        )
    if process.returncode:
        raise AssertionError(process.stderr[-3000:])
    return json.loads(process.stdout)


def _run_here(page: str, codes: list[str]) -> list[str]:
    namespace, printed = {"__name__": "page"}, []
    for code in codes:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(code, page, "exec"), namespace)
        printed.append(output.getvalue())
    return printed


def write(page: str) -> None:
    """Replace the output blocks of a page by what its blocks print now."""
    printed = iter(run(page, [block for block in blocks(page) if block.is_run]))

    def with_output(block: re.Match) -> str:
        found = Block(page, block["code"], block["output"])
        output = next(printed) if found.is_run else ""
        if not output or (found.output is None and found.shown):
            return f"```python\n{found.code}```\n"
        return f"```python\n{found.code}```\n\n```text\n{output}```\n"

    (ROOT / page).write_text(BLOCK.sub(with_output, (ROOT / page).read_text()))


if __name__ == "__main__":
    if sys.argv[1:] == ["--blocks"]:
        json.dump(_run_here(*json.load(sys.stdin)), sys.stdout)
    else:
        for argument in sys.argv[1:]:
            write(str(Path(argument).resolve().relative_to(ROOT)))
