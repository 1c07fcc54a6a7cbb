"""Downloads that are complete and checked, or raise an error."""

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path


#: The environment variable with the path of a folder of data.
VARIABLE = "FLOWPROP_DATA"


def cache(folder: str, remedy: str) -> Path:
    """The folder of this name in the user's cache, in which downloads are stored."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(f"the download needs pooch: `pip install 'flowprop[data]'`, or {remedy}") from error
    return Path(pooch.os_cache("flowprop")) / folder


def digest_fault(algorithm: str, found: str, published: str) -> str | None:
    """An error message if the digest `found` is not the published one, otherwise `None`."""
    return None if found == published else f"its content has the {algorithm} digest {found}, not {published}"


def fetch(name: str, fault: Callable[[bytes], str | None], mirrors: Sequence[str], folder: Path, remedy: str) -> Path:
    """The path of the file `name` in `folder`. If it is not there, it is downloaded from the first mirror that has it.

    **Arguments:**

    - `name`: the name of the file in `folder` and at each mirror.
    - `fault`: a function of the content of the file. It returns an error message, or `None` if the content is right.
    - `mirrors`: addresses that end in a slash, tried in order.
    - `folder`: the folder in which the file is stored. It is created if it does not exist.
    - `remedy`: what to do without a download, for the error messages.

    **Returns:** the path of the file.

    **Raises:** `ConnectionError` if no mirror has the right content; `OSError` if the file cannot be saved.
    """
    path = folder / name
    if path.is_file() and fault(path.read_bytes()) is None:
        return path
    failures = []
    for mirror in mirrors:
        # The content stays in memory first, so that an error here comes from the network, and an error below from the
        # disk.
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
    raise ConnectionError(
        "\n".join([f"{name} cannot be downloaded:", *failures, f"To use it without a download, {remedy}."])
    )


def _download(url: str, name: str) -> bytes:
    import pooch
    from tqdm import tqdm

    content = io.BytesIO()
    # Pooch sets the true total. It ignores a bar whose truth value is False, which a bar without a total has.
    with tqdm(desc=name, total=1, unit="B", unit_scale=True) as progress:
        pooch.HTTPDownloader(progressbar=progress)(url, content, None)
    return content.getvalue()


def _save(path: Path, content: bytes, remedy: str) -> None:
    """Write to a temporary file and move it into place, so that no other process finds an incomplete file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as folder:
            partial = Path(folder) / path.name
            partial.write_bytes(content)
            os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be saved: {error.strerror or error}; {remedy}") from error
