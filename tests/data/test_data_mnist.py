"""The files of MNIST: read from a folder, downloaded, and all kinds of wrong files; the digits of scikit-learn."""

import contextlib
import errno
import functools
import gzip
import hashlib
import http.server
import os
import pathlib
import struct
import threading

import numpy as np
import pooch
import pytest

import flowprop as fp
import flowprop.data
from flowprop.data import _mnist


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES = tuple(_mnist.DIGESTS)


def idx(array):
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    header = struct.pack(f">2x2B{array.ndim}I", codes[array.dtype.str[1:]], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def arrays():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 28, 28), np.uint8)
    labels = random.integers(0, 47, 12).astype(np.uint8)  # as many classes as EMNIST
    return dict(zip(NAMES, (images[:8], labels[:8], images[8:], labels[8:]), strict=True))


def assert_same(loaded):
    expected = list(arrays().values())
    for array, other, dtype in zip(loaded, expected, [np.uint8, np.int32] * 2, strict=True):
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, other[..., None] if other.ndim == 3 else other)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a correct set of compressed files; there are no other data and no mirrors."""
    monkeypatch.delenv("FLOWPROP_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(_mnist, "MIRRORS", ())
    folder = tmp_path / "files"
    folder.mkdir()
    for name, array in arrays().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


# From a folder


@pytest.mark.parametrize("given", [str, lambda folder: folder])
def test_root(folder, given):
    assert_same(fp.data.mnist(given(folder)))


def test_variable(folder, monkeypatch):
    monkeypatch.setenv("FLOWPROP_DATA", str(folder))
    assert_same(fp.data.mnist())
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        fp.data.mnist(folder / "elsewhere")


@pytest.mark.parametrize("rename", [str, lambda name: name.replace("-idx", ".idx")])
def test_raw_files(folder, rename):
    for name, array in arrays().items():
        (folder / f"{name}.gz").unlink()
        (folder / rename(name)).write_bytes(idx(array))
    assert_same(fp.data.mnist(folder))


def test_missing_file(folder, monkeypatch):
    (folder / f"{TEST_LABELS}.gz").unlink()
    monkeypatch.setenv("FLOWPROP_DATA", str(folder))
    for root in (None, folder):
        with pytest.raises(
            FileNotFoundError, match=rf"{folder} lacks {TEST_LABELS}: put .*`root` or in \$FLOWPROP_DATA"
        ):
            fp.data.mnist(root)


GOOD = arrays()
DAMAGE = {
    "empty": (TRAIN_IMAGES, b"", "is not an IDX file"),
    "page": (TRAIN_IMAGES, b"<!DOCTYPE html>", "is not an IDX file: it begins with 0x3c21444f"),
    "element type": (TRAIN_IMAGES, b"\0\0\x07\x01\0\0\0\0", "is not an IDX file"),
    "header": (
        TRAIN_IMAGES,
        idx(GOOD[TRAIN_IMAGES])[:9],
        "is too short: its header needs 16 bytes, and the file has 9",
    ),
    "truncated": (
        TRAIN_IMAGES,
        idx(GOOD[TRAIN_IMAGES])[:-1],
        r"is too short: its shape \(8, 28, 28\) needs 6288 bytes",
    ),
    "over-long": (TEST_LABELS, idx(GOOD[TEST_LABELS]) + b"\0", r"is too long: .* needs 12 bytes, and the file has 13"),
    "half gzip": (TRAIN_IMAGES, gzip.compress(idx(GOOD[TRAIN_IMAGES]))[:-500], "is a damaged or incomplete gzip file"),
    "bad gzip": (
        TRAIN_IMAGES,
        gzip.compress(idx(GOOD[TRAIN_IMAGES]))[:-8] + b"\0" * 8,
        "is a damaged or incomplete gzip",
    ),
    "not gzip": (TRAIN_IMAGES, b"\x1f\x8bnothing", "is a damaged or incomplete gzip file"),
    "swapped": (
        TRAIN_IMAGES,
        idx(GOOD[TRAIN_LABELS]),
        r"holds uint8 of shape \(8,\) where images, .* are needed: check",
    ),
    "swapped labels": (TEST_LABELS, idx(GOOD[TEST_IMAGES]), r"holds uint8 of shape \(4, 28, 28\) where labels"),
    "real pixels": (TEST_IMAGES, idx(GOOD[TEST_IMAGES].astype(np.float32)), "holds float32 of shape"),
    "wide labels": (TRAIN_LABELS, idx(GOOD[TRAIN_LABELS].astype(np.int32)), "holds int32 of shape"),
    "size": (TEST_IMAGES, idx(GOOD[TEST_IMAGES][:, 4:-4, 4:-4]), r"holds uint8 of shape \(4, 20, 20\)"),
    "counts": (TRAIN_LABELS, idx(GOOD[TEST_LABELS]), rf"holds 8 images and .*{TRAIN_LABELS}.gz 4 labels"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_wrong_file(folder, damage):
    name, content, words = DAMAGE[damage]
    (folder / f"{name}.gz").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        fp.data.mnist(folder)
    assert name in str(error.value)


def test_wrong_root():
    with pytest.raises(TypeError, match="root"):
        fp.data.mnist(3)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 1, 2)])
def test_read_idx(tmp_path, dtype, shape):
    array = np.asarray(np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
    for name, content in (("raw", idx(array)), ("compressed", gzip.compress(idx(array)))):
        (tmp_path / name).write_bytes(content)
        read = fp.data.read_idx(tmp_path / name)
        assert read.dtype == array.dtype
        assert read.flags.writeable
        np.testing.assert_array_equal(read, array)


# From a mirror


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mirror(folder, monkeypatch):
    """A local server with the files, as the second of two mirrors; the first has none. Their digests replace the
    published ones."""
    monkeypatch.setattr(_mnist, "DIGESTS", {name: hashlib.sha256(idx(a)).hexdigest() for name, a in arrays().items()})
    with served(folder) as address:
        monkeypatch.setattr(_mnist, "MIRRORS", (f"{address}nothing/", address))
        yield address


def cached(folder):
    return sorted(
        str(path.name) for path in (folder.parent / "cache").rglob("*") if path.name not in ("flowprop", "mnist")
    )


def test_download_once(mirror, folder, monkeypatch, capfd):
    assert_same(fp.data.mnist())
    assert cached(folder) == sorted(f"{name}.gz" for name in NAMES)
    assert f"{TRAIN_IMAGES}.gz" in capfd.readouterr().err  # the progress bar
    monkeypatch.setattr(_mnist, "MIRRORS", ())
    assert_same(fp.data.mnist())


def test_empty_variable_means_download(mirror, monkeypatch):
    monkeypatch.setenv("FLOWPROP_DATA", "")
    assert_same(fp.data.mnist())


def test_recompressed_mirror(mirror, folder):
    for name, array in arrays().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), compresslevel=1))
    assert_same(fp.data.mnist())


def test_damaged_cache_is_replaced(mirror, folder):
    fp.data.mnist()
    damaged = folder.parent / "cache" / "flowprop" / "mnist" / f"{TEST_LABELS}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert_same(fp.data.mnist())


@pytest.mark.parametrize(
    ("content", "words"),
    [(gzip.compress(b"other"), "its content has the SHA-256 digest"), (b"\x1f\x8bhalf", "damaged or incomplete gzip")],
    ids=["digest", "gzip"],
)
def test_wrong_content(mirror, folder, content, words):
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(content)
    with pytest.raises(
        ConnectionError, match=rf"(?s){TRAIN_IMAGES}.gz cannot be downloaded.*404.*{words}.*put .*FLOWPROP_DATA"
    ):
        fp.data.mnist()
    assert cached(folder) == []


def test_wrong_first_mirror(mirror, folder, monkeypatch, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name in NAMES:
        (wrong / f"{name}.gz").write_bytes(gzip.compress(b"a page that says sorry"))
    with served(wrong) as address:
        monkeypatch.setattr(_mnist, "MIRRORS", (address, mirror))
        assert_same(fp.data.mnist())


def test_no_network(mirror, folder, monkeypatch):
    with served(folder) as gone:
        pass
    monkeypatch.setattr(_mnist, "MIRRORS", (gone, gone))
    with pytest.raises(
        ConnectionError, match=rf"(?s){TRAIN_IMAGES}.gz cannot be downloaded.*put {TRAIN_IMAGES}.*`root`"
    ):
        fp.data.mnist()
    assert cached(folder) == []


def test_full_disk(mirror, folder, monkeypatch):
    def write_half(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_half)
    with pytest.raises(
        OSError, match=rf"{TRAIN_IMAGES}.gz cannot be saved: No space left.*put .*FLOWPROP_DATA"
    ) as error:
        fp.data.mnist()
    assert error.value.errno == errno.ENOSPC
    assert cached(folder) == []


def test_unwritable_cache(mirror, folder):
    (folder.parent / "cache").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"(?s) cannot be saved: .*; put "):
        fp.data.mnist()


def test_without_pooch(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(ImportError, match=r"flowprop\[data\].*FLOWPROP_DATA"):
        fp.data.mnist()


# The real data


def test_digits():
    loaded = fp.data.digits()
    train_images, train_labels, test_images, test_labels = loaded
    assert (train_images.shape, test_images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert [array.dtype for array in loaded] == [np.uint8, np.int32] * 2
    assert (train_images.min(), train_images.max()) == (0, 255)
    np.testing.assert_allclose(np.bincount(test_labels) / 360, np.bincount(train_labels) / 1437, atol=0.003)
    split = hashlib.sha256(b"".join(array.tobytes() for array in loaded)).hexdigest()
    assert split == "5d1f818d271e770202fade9459e61386c41df5e000ad52b12f9258a01161172a"


@pytest.mark.slow
@pytest.mark.skipif("FLOWPROP_DATA" not in os.environ, reason="needs MNIST in $FLOWPROP_DATA")
def test_mnist():
    loaded = fp.data.mnist()
    assert [array.shape for array in loaded] == [(60000, 28, 28, 1), (60000,), (10000, 28, 28, 1), (10000,)]
    for (name, digest), array in zip(_mnist.DIGESTS.items(), loaded, strict=True):
        array = array[..., 0] if "images" in name else array.astype(np.uint8)
        assert hashlib.sha256(idx(array)).hexdigest() == digest
