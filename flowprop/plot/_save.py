"""Writing a figure to a file."""

import os
import tempfile
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from .._types import checked


@checked
def save(figure: Figure | SubFigure | Axes, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to a file. The suffix of the file name determines the format.

    If writing fails, an existing file at `path` stays as it was: the new file replaces it only when it is complete.

    **Arguments:**

    - `figure`: the figure, or axes in the figure.
    - `path`: the file, such as `results/density.png` or `results/density.pdf`. Missing folders are created.
    - `dpi`: the resolution in dots per inch of everything that is not drawn as vectors. By default 150.

    **Raises:** `ValueError` if matplotlib cannot write the format of the suffix of `path`.

    ```python
    from pathlib import Path

    import flowprop as fp
    import numpy as np

    ax = fp.plot.image_grid(np.zeros((2, 4, 4)))
    fp.plot.save(ax, "results/images.png")
    print(Path("results/images.png").exists())  # True
    ```
    """
    # The canvas belongs to the whole figure, also if these axes are in a subfigure.
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
