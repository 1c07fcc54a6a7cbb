"""Downloads that arrive whole or not at all."""

import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ._idx import decompressed


def fetch(name: str, digest: str, mirrors: Sequence[str], folder: Path, remedy: str) -> Path:
    """The file `name` in `folder`, downloaded from the first mirror that has it unless it is there already.

    **Arguments:**

    - `name`: the file's name, in `folder` and under each mirror.
    - `digest`: SHA-256 of the **uncompressed** content, which stays the same if a mirror compresses anew.
    - `mirrors`: addresses that end in a slash, tried in turn.
    - `folder`: where the file is kept; made if missing.
    - `remedy`: what to do without a download, for the errors.

    **Raises:** `ConnectionError` if no mirror has the content; `OSError` if it cannot be saved.
    """
    path = folder / name
    if path.is_file() and _fault(path.read_bytes(), digest) is None:
        return path
    failures = []
    for mirror in mirrors:
        # Kept in memory first: an error here is the network's, an error below the disk's.
        try:
            content = _download(mirror + name, name)
        except OSError as error:
            failures.append(f"{mirror + name}: {error}")
            continue
        fault = _fault(content, digest)
        if fault is None:
            _save(path, content, remedy)
            return path
        failures.append(f"{mirror + name}: {fault}")
    raise ConnectionError("\n".join([f"no mirror gave {name}:", *failures, f"Without a download, {remedy}."]))


def _download(url: str, name: str) -> bytes:
    import pooch
    from tqdm import tqdm

    content = io.BytesIO()
    # Pooch sets the true total; a bar without one would not pass its test for truth.
    with tqdm(desc=name, total=1, unit="B", unit_scale=True) as progress:
        pooch.HTTPDownloader(progressbar=progress)(url, content, None)
    return content.getvalue()


def _fault(content: bytes, digest: str) -> str | None:
    """What is wrong with the content of a file, if anything."""
    try:
        found = hashlib.sha256(decompressed(content, "it")).hexdigest()
    except ValueError as error:
        return str(error)
    return None if found == digest else f"its content has the SHA-256 digest {found} instead of {digest}"


def _save(path: Path, content: bytes, remedy: str) -> None:
    """Write the file elsewhere and move it into place, so that no one ever finds half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as folder:
            partial = Path(folder) / path.name
            partial.write_bytes(content)
            os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot save {path}: {error.strerror or error}; {remedy}") from error
