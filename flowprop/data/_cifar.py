"""CIFAR-10 and CIFAR-100 in their binary format."""

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from .._types import checked
from ._download import VARIABLE, cache, digest_fault, fetch
from ._idx import decompressed


class _Dataset(NamedTuple):
    """The files of a data set. Each file holds records: label bytes, then 32 x 32 bytes each of red, green and blue."""

    archive: str
    #: The digest of the archive, from the data set's page.
    md5: str
    #: The folder inside the archive.
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    #: The number of classes of each label byte. The last label byte is the one that is returned.
    num_classes: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.train + self.test

    @property
    def remedy(self) -> str:
        return (
            f"put {self.archive}, or the files {', '.join(self.names)}, into a folder, and give the folder as `root` "
            f"or in ${VARIABLE}"
        )


CIFAR10 = _Dataset(
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    num_classes=(10,),
)
CIFAR100 = _Dataset(
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    num_classes=(20, 100),
)
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)

_Images = UInt8[np.ndarray, "_ 32 32 3"]
_Labels = Int32[np.ndarray, "_"]
#: The name of a file, for error messages, and its content.
_File = tuple[str, bytes]


@checked
def cifar10(
    root: str | os.PathLike[str] | None = None,
) -> tuple[
    UInt8[np.ndarray, "train 32 32 3"],
    Int32[np.ndarray, " train"],
    UInt8[np.ndarray, "test 32 32 3"],
    Int32[np.ndarray, " test"],
]:
    """The CIFAR-10 colour images of 32 x 32 pixels in 10 classes ([page](https://www.cs.toronto.edu/~kriz/cifar.html),
    "binary version"; Krizhevsky 2009,
    [report](https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)).

    `fp.data.cifar10()` downloads CIFAR-10 at the first call. The example reads small files instead, which it writes
    itself:

    ```python
    from pathlib import Path
    import flowprop as fp

    # One black image in each file: a byte for the label, then red, green and blue.
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        Path(name).write_bytes(bytes([7]) + bytes(3 * 32 * 32))

    train_images, train_labels, test_images, test_labels = fp.data.cifar10(".")
    print(train_images.shape, train_labels)  # (5, 32, 32, 3) [7 7 7 7 7]
    print(test_images.shape, test_labels)  # (1, 32, 32, 3) [7]
    ```

    The files are `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`. `cifar10` looks for them in three
    places of `root`, in this order: in `root` itself, in the folder `cifar-10-batches-bin`, and in the archive
    `cifar-10-binary.tar.gz`. It unpacks an archive in memory, not to disk. Without `root`, `cifar10` searches the
    folder that the environment variable `FLOWPROP_DATA` names in the same way. If that folder has none of the files, or
    the variable is not set, `cifar10` downloads the archive (170 MB) once, with a progress bar, into the user's cache,
    `pooch.os_cache("flowprop")`.

    The download and the archive in the cache are checked against the MD5 digest on the data set's page. This detects
    damage, but not manipulation; no stronger digest is published. Files in a folder of your own are not checked by
    digests, and may hold any number of images.

    **Arguments:**

    - `root`: a folder as described above, or the path of the archive. By default the folder in `FLOWPROP_DATA`, or a
      download.

    **Returns:** four NumPy arrays: training images `(50000, 32, 32, 3)`, uint8; training labels `(50000,)`, int32 in
    `0 ... 9`; test images `(10000, 32, 32, 3)`, uint8; test labels `(10000,)`, int32.

    **Raises:**

    - `FileNotFoundError` if a file is missing in `root`, or `FLOWPROP_DATA` does not name a folder, or names a folder
      with only some of the files.
    - `ValueError` if a file or an archive is damaged, or its content does not match its name.
    - `ConnectionError` if the archive cannot be downloaded, `OSError` if it cannot be saved, `ImportError` if pooch is
      not installed.
    """
    return _load(CIFAR10, root)


@checked
def cifar100(
    root: str | os.PathLike[str] | None = None,
) -> tuple[
    UInt8[np.ndarray, "train 32 32 3"],
    Int32[np.ndarray, " train"],
    UInt8[np.ndarray, "test 32 32 3"],
    Int32[np.ndarray, " test"],
]:
    """The CIFAR-100 colour images of 32 x 32 pixels in 100 classes ([page](https://www.cs.toronto.edu/~kriz/cifar.html),
    "binary version"; Krizhevsky 2009,
    [report](https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)).

    The labels are the 100 fine ones, not the 20 coarse ones. `fp.data.cifar100()` downloads CIFAR-100 at the first
    call. The example reads small files instead, which it writes itself:

    ```python
    from pathlib import Path
    import flowprop as fp

    # One black image in each file: the coarse label, the fine label, red, green, blue.
    for name in ("train.bin", "test.bin"):
        Path(name).write_bytes(bytes([19, 99]) + bytes(3 * 32 * 32))

    train_images, train_labels, test_images, test_labels = fp.data.cifar100(".")
    print(train_images.shape, train_labels)  # (1, 32, 32, 3) [99]
    ```

    The files are `train.bin` and `test.bin`, the folder is `cifar-100-binary`, and the archive is
    `cifar-100-binary.tar.gz`. Where `cifar100` looks for them, and how it checks them, is the same as for
    [`flowprop.data.cifar10`][].

    **Arguments:**

    - `root`: the folder with the files, with the folder or with the archive, or the path of the archive. By default the
      folder in the environment variable `FLOWPROP_DATA`, or a download.

    **Returns:** four NumPy arrays: training images `(50000, 32, 32, 3)`, uint8; training labels `(50000,)`, int32 in
    `0 ... 99`; test images `(10000, 32, 32, 3)`, uint8; test labels `(10000,)`, int32.

    **Raises:**

    - `FileNotFoundError` if a file is missing in `root`, or `FLOWPROP_DATA` does not name a folder, or names a folder
      with only some of the files.
    - `ValueError` if a file or an archive is damaged, or its content does not match its name.
    - `ConnectionError` if the archive cannot be downloaded, `OSError` if it cannot be saved, `ImportError` if pooch is
      not installed.
    """
    return _load(CIFAR100, root)


def _load(dataset: _Dataset, root: str | os.PathLike[str] | None) -> tuple[_Images, _Labels, _Images, _Labels]:
    files = _find(dataset, root)
    train, test = files[: len(dataset.train)], files[len(dataset.train) :]
    return *_images_and_labels(dataset, train), *_images_and_labels(dataset, test)


def _find(dataset: _Dataset, root: str | os.PathLike[str] | None) -> list[_File]:
    given = (os.environ.get(VARIABLE) or None) if root is None else root
    if given is None:
        return _unpack(dataset, _download(dataset))
    folder = Path(given).expanduser()
    places = (folder, folder / dataset.folder)
    absent = {place: [name for name in dataset.names if not (place / name).is_file()] for place in places}
    place = min(places, key=lambda place: len(absent[place]))
    if not absent[place]:
        return [(str(place / name), (place / name).read_bytes()) for name in dataset.names]
    archive = folder if folder.is_file() else folder / dataset.archive
    if archive.is_file():
        return _unpack(dataset, archive)
    if root is None and folder.is_dir() and len(absent[place]) == len(dataset.names):
        return _unpack(dataset, _download(dataset))
    raise FileNotFoundError(f"{place} lacks {', '.join(absent[place])}: {dataset.remedy}")


def _download(dataset: _Dataset) -> Path:
    def fault(content: bytes) -> str | None:
        return digest_fault("MD5", hashlib.md5(content, usedforsecurity=False).hexdigest(), dataset.md5)

    return fetch(dataset.archive, fault, MIRRORS, cache("cifar", dataset.remedy), dataset.remedy)


def _unpack(dataset: _Dataset, archive: Path) -> list[_File]:
    """The files in an archive, found by their exact names and read into memory."""
    content = io.BytesIO(decompressed(archive.read_bytes(), str(archive)))
    try:
        with tarfile.open(fileobj=content, mode="r:") as tar:
            return [_member(tar, archive, f"{dataset.folder}/{name}") for name in dataset.names]
    except tarfile.TarError as error:
        raise ValueError(f"{archive} is a damaged archive, or no archive ({error}): download it again") from error


def _member(tar: tarfile.TarFile, archive: Path, name: str) -> _File:
    file = next((tar.extractfile(member) for member in tar if member.isfile() and member.name == name), None)
    if file is None:
        raise ValueError(f"{archive} holds no file {name}: check whether another archive has this name")
    return f"{archive}: {name}", file.read()


def _images_and_labels(dataset: _Dataset, files: Sequence[_File]) -> tuple[_Images, _Labels]:
    records = np.concatenate([_records(dataset, name, content) for name, content in files])
    num_labels = len(dataset.num_classes)
    planes = records[:, num_labels:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, num_labels - 1].astype(np.int32)


def _records(dataset: _Dataset, name: str, content: bytes) -> UInt8[np.ndarray, "n bytes"]:
    num_classes = np.asarray(dataset.num_classes)
    size = len(num_classes) + 3 * 32 * 32
    if not content or len(content) % size:
        raise ValueError(
            f"{name} holds {len(content)} bytes where records of {size} are needed: it is incomplete, or another file "
            "has this name; download it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = records[:, : len(num_classes)]
    wrong = np.argwhere(labels >= num_classes)
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{name} has the label {labels[row, column]} in record {row} where 0 to {num_classes[column] - 1} are "
            "allowed: it is damaged, or another file has this name; download it again"
        )
    return records
