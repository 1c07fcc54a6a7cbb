"""The command `flowprop`: train a model on a file, and use it, without writing a program.

It uses the public interface of the library alone, and `import flowprop` does not import it.
"""

import contextlib
import io
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
    """The message in the text that tyro puts into a box, which is one of dashes where the output is not UTF-8."""
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │|╭╮╰╯─-")
        # A line of dashes separates paragraphs; the title is in the upper edge of the box or above such a line.
        if not text or line.startswith("╭"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line.strip(" │|"))
    found = [" ".join(paragraph) for paragraph in paragraphs if paragraph]
    message = next((paragraph for paragraph in found if ":" in paragraph), found[0] if found else "")
    return message.rstrip(".:") or "the arguments are not understood"
