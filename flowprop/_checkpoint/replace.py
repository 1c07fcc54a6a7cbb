"""A file that appears completely or not at all."""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


#: A part file that has not been written to for this many seconds is left over from a save that was killed.
_STALE = 600.0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` at the end, or is removed after an error.

    It is written beside `path` under the name `.NAME.HEX.part`. If `path` is a link, its target is replaced and the
    link stays. The new file has the mode of the file that it replaces. Part files that are left over from killed saves
    of `path` are removed.
    """
    check_regular(path)
    target = Path(os.path.realpath(path))
    mode = stat.S_IMODE(os.stat(target).st_mode) if target.exists() else None
    # A name may have 255 bytes.
    prefix = f".{os.fsdecode(os.fsencode(target.name)[:200])}."
    part = target.with_name(f"{prefix}{uuid.uuid4().hex}.part")
    # Not `tempfile`, because only the owner can read its files.
    file = open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o666 if mode is None else mode))  # noqa: SIM115
    try:
        with file:
            if mode is not None:
                os.chmod(part, mode)
            _remove_stale(part, prefix)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def check_regular(path: Path) -> None:
    """Raise a `ValueError` if there is something at `path` that is not a regular file."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "folder" if stat.S_ISDIR(mode) else "device, pipe or socket"
            raise ValueError(f"`path` {path} is a {what}: give the path of a regular file")


def _remove_stale(part: Path, prefix: str) -> None:
    """Remove the part files of the same target that have not been written to for a long time.

    Another process may be saving to the same target at this moment: its part file is young. The age is relative to the
    new part file, because the clock of a shared disk may differ from the clock of this machine.
    """
    name = re.compile(re.escape(prefix) + r"[0-9a-f]{32}\.part")
    now = part.stat().st_mtime
    # A save must not fail because old part files cannot be removed.
    with contextlib.suppress(OSError), os.scandir(part.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and now - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                os.unlink(entry)


def _sync_folder(folder: Path) -> None:
    """Write the new name to disk too: without this, a power cut may bring back the old file, or no file."""
    # Some systems cannot open a folder, or cannot sync one. The file is already in place.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
