"""The command `flowprop`: train a model on a file, and use it, without writing a program.

It uses the public interface of the library alone, and `import flowprop` does not import it.
"""

import contextlib
import io
import itertools
import sys
from collections.abc import Sequence

from .refused import Refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 if it was refused.

    **Arguments:**

    - `arguments`: the words of the command line after `flowprop`. By default those of this process.
    """
    try:
        from .parse import parse
    except ImportError as error:
        print(f"flowprop: the command needs {error.name}: pip install 'flowprop[cli]'", file=sys.stderr)
        return 2
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            command = parse(sys.argv[1:] if arguments is None else list(arguments))
    except SystemExit as stop:
        if stop.code:
            print(f"flowprop: {_one_line(messages.getvalue())}: see flowprop --help", file=sys.stderr)
            return 2
        return 0
    try:
        command.run()
    except Refused as error:
        print(f"flowprop: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _one_line(box: str) -> str:
    """The first paragraph of the text that tyro puts into a box, without the box and its title."""
    inside = [line.strip("│| ") for line in box.splitlines() if not line.startswith(("╭", "╰", "+"))]
    found = " ".join(itertools.takewhile(lambda line: line.strip("─-"), inside))
    return found.rstrip(".:") or "the arguments are not understood"
