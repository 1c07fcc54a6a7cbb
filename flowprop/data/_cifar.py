"""CIFAR-10 and CIFAR-100, in their binary format."""

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
    """The files of a data set: records of some label bytes, then 32 x 32 bytes each of red, green and blue."""

    archive: str
    #: Of the archive, as the data set's page publishes it.
    md5: str
    #: The folder inside the archive.
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    #: For each label byte the number of classes. The last is the label that is returned.
    num_classes: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.train + self.test

    @property
    def remedy(self) -> str:
        return (
            f"put {self.archive}, or the files {', '.join(self.names)}, into a folder, and give it as `root` or in "
            f"${VARIABLE}"
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
#: A file's name, for errors, and its content.
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
    """CIFAR-10's small colour images of ten classes (Krizhevsky, 2009), from its binary version.

    The files `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` are read from `root`: they may lie there as
    they are, in the folder `cifar-10-batches-bin`, or in the archive `cifar-10-binary.tar.gz`, looked for in this
    order. Nothing is unpacked to disk. Without `root` the folder that the environment variable `FLOWPROP_DATA` names
    serves in the same way, if it holds any of these files: it may be meant for other data. Else the archive (170 MB) is
    downloaded once, with a progress bar, into the user's cache (`pooch.os_cache("flowprop")`).

    A download, and what the cache holds, is checked against the MD5 digest on the data set's page. This finds damage,
    but not malice: no stronger digest is published. Files in a folder of yours are not checked by digests, and may hold
    any number of images.

    **Arguments:**

    - `root`: a folder as above, or the archive itself.

    **Returns:** training images `(50000, 32, 32, 3)`, uint8, training labels `(50000,)`, int32 in `0 ... 9`, test
    images `(10000, 32, 32, 3)`, and test labels `(10000,)`, as NumPy arrays.

    **Raises:**

    - `FileNotFoundError` if `root` lacks a file, or `$FLOWPROP_DATA` names no folder or one with only some of them.
    - `ValueError` if a file or an archive is damaged, or is not what its name says.
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
    """CIFAR-100's small colour images of a hundred classes (Krizhevsky, 2009), from its binary version.

    The files are `train.bin` and `test.bin`, the folder `cifar-100-binary`, and the archive `cifar-100-binary.tar.gz`.
    All else is as in [`flowprop.data.cifar10`][]. The labels are the fine ones.

    **Arguments:**

    - `root`: the folder that holds the files or the archive, or the archive itself.

    **Returns:** training images `(50000, 32, 32, 3)`, uint8, training labels `(50000,)`, int32 in `0 ... 99`, test
    images `(10000, 32, 32, 3)`, and test labels `(10000,)`, as NumPy arrays.

    **Raises:** as [`flowprop.data.cifar10`][].
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
    """The files in an archive, by their exact names. All stays in memory."""
    content = io.BytesIO(decompressed(archive.read_bytes(), str(archive)))
    try:
        with tarfile.open(fileobj=content, mode="r:") as tar:
            return [_member(tar, archive, f"{dataset.folder}/{name}") for name in dataset.names]
    except tarfile.TarError as error:
        raise ValueError(f"{archive} is a damaged archive, or none ({error}): get it again") from error


def _member(tar: tarfile.TarFile, archive: Path, name: str) -> _File:
    file = next((tar.extractfile(member) for member in tar if member.isfile() and member.name == name), None)
    if file is None:
        raise ValueError(f"{archive} holds no file {name}: is it another archive under this name? Get it again")
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
            f"{name} holds {len(content)} bytes where records of {size} are needed: it is cut short, or another file "
            "under this name; get it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = records[:, : len(num_classes)]
    wrong = np.argwhere(labels >= num_classes)
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{name} has the label {labels[row, column]} in record {row} where 0 to {num_classes[column] - 1} are "
            "known: it is damaged, or another file under this name; get it again"
        )
    return records
