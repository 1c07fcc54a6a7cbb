"""MNIST, and other data sets in the same four files."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from .._types import checked
from ._download import VARIABLE, cache, digest_fault, fetch
from ._idx import decompressed, read_idx


#: The files, in the order in which `mnist` returns them, and the SHA-256 digests of their uncompressed content.
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_REMEDY = (
    f"put {', '.join(DIGESTS)} (or the same with .gz) into a folder, and give the folder as `root` or in ${VARIABLE}"
)


@checked
def mnist(
    root: str | os.PathLike[str] | None = None,
) -> tuple[
    UInt8[np.ndarray, "train 28 28 1"],
    Int32[np.ndarray, " train"],
    UInt8[np.ndarray, "test 28 28 1"],
    Int32[np.ndarray, " test"],
]:
    """The MNIST images of handwritten digits (LeCun et al. 1998, [DOI](https://doi.org/10.1109/5.726791)),
    or another data set in the same files.

    `fp.data.mnist()` downloads MNIST at the first call. The example reads small files instead, which it writes itself:

    ```python
    from pathlib import Path
    import flowprop as fp

    def uint32(*numbers):
        return b"".join(number.to_bytes(4, "big") for number in numbers)

    # 6 training images and 2 test images, all black, with the label 0.
    for name, n in (("train", 6), ("t10k", 2)):
        images = bytes([0, 0, 8, 3]) + uint32(n, 28, 28) + bytes(n * 28 * 28)
        Path(f"{name}-images-idx3-ubyte").write_bytes(images)
        labels = bytes([0, 0, 8, 1]) + uint32(n) + bytes(n)
        Path(f"{name}-labels-idx1-ubyte").write_bytes(labels)

    train_images, train_labels, test_images, test_labels = fp.data.mnist(".")
    print(train_images.shape, train_labels.shape)  # (6, 28, 28, 1) (6,)
    print(test_images.shape, test_labels)  # (2, 28, 28, 1) [0 0]
    ```

    The four files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`. The spelling `.idx` instead of `-idx` is accepted, and so are files compressed with gzip
    (`.gz`). `mnist` looks for them in this order:

    1. in `root`, if it is given;
    2. in the folder that the environment variable `FLOWPROP_DATA` names, if it is set;
    3. in the user's cache, `pooch.os_cache("flowprop")`. Missing files are downloaded once, with a progress bar, and
       are checked against their SHA-256 digests.

    A folder of your own may hold any data set of 28 x 28 images in this format, such as Fashion-MNIST (Xiao et al.
    2017, [arXiv:1708.07747](https://arxiv.org/abs/1708.07747)). Its digests are not checked.

    **Arguments:**

    - `root`: the folder with the files, not a folder above it. By default the folder in `FLOWPROP_DATA`, or a download.

    **Returns:** four NumPy arrays: training images `(60000, 28, 28, 1)`, uint8 from 0 (paper) to 255 (ink); training
    labels `(60000,)`, int32; test images `(10000, 28, 28, 1)`, uint8; test labels `(10000,)`, int32.

    **Raises:**

    - `FileNotFoundError` if `root` or `FLOWPROP_DATA` is given but a file is missing there.
    - `ValueError` if a file is damaged, or its content does not match its name.
    - `ConnectionError` if a file cannot be downloaded from any mirror, `OSError` if it cannot be saved, `ImportError`
      if pooch is not installed.
    """
    folder = (os.environ.get(VARIABLE) or None) if root is None else root
    paths = _downloaded() if folder is None else _local(Path(folder).expanduser())
    train_images, train_labels = _read_pair(*paths[:2])
    test_images, test_labels = _read_pair(*paths[2:])
    return train_images, train_labels, test_images, test_labels


def _local(folder: Path) -> list[Path]:
    found = [_find(folder, name) for name in DIGESTS]
    missing = [name for name, path in zip(DIGESTS, found, strict=True) if path is None]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: {_REMEDY} (subfolders are not searched)")
    return [path for path in found if path is not None]


def _find(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = [folder / (spelling + suffix) for spelling in spellings for suffix in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _downloaded() -> list[Path]:
    folder = cache("mnist", _REMEDY)
    return [
        fetch(f"{name}.gz", functools.partial(_fault, digest), MIRRORS, folder, _REMEDY)
        for name, digest in DIGESTS.items()
    ]


def _fault(digest: str, content: bytes) -> str | None:
    """An error message if the content is wrong, otherwise `None`.

    The digest is that of the uncompressed content, which does not change if a mirror compresses the file again.
    """
    try:
        found = hashlib.sha256(decompressed(content, "its content")).hexdigest()
    except ValueError as error:
        return str(error)
    return digest_fault("SHA-256", found, digest)


def _read_pair(images_path: Path, labels_path: Path) -> tuple[UInt8[np.ndarray, "n 28 28 1"], Int32[np.ndarray, " n"]]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise ValueError(_wrong(images_path, images, "images, uint8 of shape (n, 28, 28)"))
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise ValueError(_wrong(labels_path, labels, "labels, uint8 of shape (n,)"))
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels: "
            "take both from the same data set, and both from its training or both from its test files"
        )
    return images[..., None], labels.astype(np.int32)


def _wrong(path: Path, array: np.ndarray, wanted: str) -> str:
    return (
        f"{path} holds {array.dtype} of shape {array.shape} where {wanted}, are needed: check whether another file has "
        "this name (`read_idx` reads any IDX file)"
    )
