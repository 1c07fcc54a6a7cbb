"""A figure on disk, whole or not at all."""

import os
import tempfile
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from .._types import checked


@checked
def save(figure: Figure | SubFigure | Axes, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to a file, whose ending names the format; a crash leaves the old file, never half a one.

    **Arguments:**

    - `figure`: the figure, or axes in it.
    - `path`: such as `results/density.png` or `.pdf`; missing folders are made.
    - `dpi`: dots per inch, of what is not drawn as vectors.

    **Raises:**

    - `ValueError`: the ending of `path` names no format that matplotlib writes.
    """
    # A canvas belongs to the whole figure, also where these axes are in a part of it.
    whole = (figure.figure if isinstance(figure, Axes) else figure).canvas.figure
    path = Path(path)
    formats = whole.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise ValueError(
            f"`path` is {str(path)!r}; it must end in one of {', '.join(f'.{known}' for known in formats)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".figure-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        whole.savefig(written, dpi=dpi, bbox_inches="tight")
        os.replace(written, path)
