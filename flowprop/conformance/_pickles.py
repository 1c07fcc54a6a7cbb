"""A check of what reads files: a pickle runs whatever code its author wrote."""

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


#: Sings where a file's code is run.
_canary = Tally()
#: A pickle of the call `_canary()`, by hand: the global of that name, no arguments, call it, done.
_PICKLE = f"c{__name__}\n_canary\n(tR.".encode()


@checked
@dataclass(frozen=True)
class PicklesAreRefused(AbstractCheck):
    """Reading a file never runs code that is in it.

    A canary is put into a bare pickle, into a NumPy array of objects, and in turn into each member of a file of the
    subject's own, where that is a zip. It must not sing. Whether reading raises an error does not matter.

    **Arguments:**

    - `load`: the subject's, a callable `load(path)` that reads a checkpoint or a data set.
    - `valid`: the content of a file that `load` reads.
    """

    load: Callable[..., Any]
    valid: bytes = b""

    def measure(self, *, key: PRNGKey) -> Report:
        heard = []
        with tempfile.TemporaryDirectory() as folder:
            for name, content in _poisoned(self.valid):
                path, songs = Path(folder, "file"), _canary.count
                path.write_bytes(content)
                with contextlib.suppress(Exception):
                    self.load(path)
                heard += [name] * (_canary.count > songs)
        what = "files whose code was run" + (f": {', '.join(heard)}" if heard else "")
        return self.report(what, len(heard), most=0)


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
