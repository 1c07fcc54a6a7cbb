"""Downloads that arrive whole or not at all."""

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path


#: The environment variable that names a folder of data.
VARIABLE = "FLOWPROP_DATA"


def cache(folder: str, remedy: str) -> Path:
    """The folder of this name in the user's cache, where downloads are kept."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(f"a download needs pooch: `pip install 'flowprop[data]'`, or {remedy}") from error
    return Path(pooch.os_cache("flowprop")) / folder


def digest_fault(algorithm: str, found: str, published: str) -> str | None:
    """What is wrong with a content of the digest `found`, if anything."""
    return None if found == published else f"its content has the {algorithm} digest {found} instead of {published}"


def fetch(name: str, fault: Callable[[bytes], str | None], mirrors: Sequence[str], folder: Path, remedy: str) -> Path:
    """The file `name` in `folder`, downloaded from the first mirror that has it unless it is there already.

    **Arguments:**

    - `name`: the file's name, in `folder` and under each mirror.
    - `fault`: says what is wrong with the content of the file, `None` if nothing is.
    - `mirrors`: addresses that end in a slash, tried in turn.
    - `folder`: where the file is kept; made if missing.
    - `remedy`: what to do without a download, for the errors.

    **Raises:** `ConnectionError` if no mirror has the content; `OSError` if it cannot be saved.
    """
    path = folder / name
    if path.is_file() and fault(path.read_bytes()) is None:
        return path
    failures = []
    for mirror in mirrors:
        # Kept in memory first: an error here is the network's, an error below the disk's.
        try:
            content = _download(mirror + name, name)
        except OSError as error:
            failures.append(f"{mirror + name}: {error}")
            continue
        wrong = fault(content)
        if wrong is None:
            _save(path, content, remedy)
            return path
        failures.append(f"{mirror + name}: {wrong}")
    raise ConnectionError("\n".join([f"no mirror gave {name}:", *failures, f"Without a download, {remedy}."]))


def _download(url: str, name: str) -> bytes:
    import pooch
    from tqdm import tqdm

    content = io.BytesIO()
    # Pooch sets the true total; a bar without one would not pass its test for truth.
    with tqdm(desc=name, total=1, unit="B", unit_scale=True) as progress:
        pooch.HTTPDownloader(progressbar=progress)(url, content, None)
    return content.getvalue()


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
