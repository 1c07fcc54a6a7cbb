"""A check of functions that read files: loading a pickle can run any code."""

import contextlib
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._types import PRNGKey, checked
from ._check import AbstractCheck, Report
from ._instruments import Tally


#: Counts each time that code of a file is run.
_canary = Tally()
#: A hand-written pickle that calls `_canary()`: load the global of that name, no arguments, call it, stop.
_PICKLE = f"c{__name__}\n_canary\n(tR.".encode()


@checked
@dataclass(frozen=True)
class PicklesAreRefused(AbstractCheck):
    """Checks that a function that reads files never runs code from a file.

    It catches functions that load pickles, because a pickle can run any code
    ([the warning in Python's documentation](https://docs.python.org/3/library/pickle.html)).

    The check writes harmless code, which only counts its calls, into a bare pickle and into a NumPy array of objects.
    If `valid` is a zip file, the check also replaces each of its members in turn. The function must not run this code.
    It may raise an error.

    **Arguments:**

    - `load`: the callable under test, `load(path)`. It reads a checkpoint or a data set.
    - `valid`: the content of a file that `load` can read. By default empty.

    ```python
    import pickle

    import flowprop as fp
    import jax


    def unsafe(path):
        with open(path, "rb") as file:
            return pickle.load(file)


    right = fp.conformance.PicklesAreRefused(fp.data.read_idx)
    wrong = fp.conformance.PicklesAreRefused(unsafe)
    reports = fp.conformance.run([right, wrong], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    load: Callable[..., Any]
    valid: bytes = b""

    def measure(self, *, key: PRNGKey) -> Report:
        loaded = []
        with tempfile.TemporaryDirectory() as folder:
            for name, content in _poisoned(self.valid):
                path, before = Path(folder, "file"), _canary.count
                path.write_bytes(content)
                with contextlib.suppress(Exception):
                    self.load(path)
                loaded += [name] * (_canary.count > before)
        what = "files whose code was run" + (f": {', '.join(loaded)}" if loaded else "")
        return self.report(what, len(loaded), most=0)


def _poisoned(valid: bytes) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    poisons = {"a pickle": _PICKLE, "an array of objects": buffer.getvalue() + _PICKLE}
    yield from poisons.items()
    if not zipfile.is_zipfile(io.BytesIO(valid)):
        return
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for member in members:
        for name, poison in poisons.items():
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for other, content in members.items():
                    archive.writestr(other, poison if other == member else content)
            yield f"{name} as {member}", packed.getvalue()
