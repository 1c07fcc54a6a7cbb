"""The files of CIFAR-10 and CIFAR-100: read from a folder or an archive, downloaded, and all kinds of wrong files."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pooch
import pytest

import flowprop as fp
import flowprop.data
from flowprop.data import _cifar


LOAD = {"10": fp.data.cifar10, "100": fp.data.cifar100}
DATASETS = {"10": _cifar.CIFAR10, "100": _cifar.CIFAR100}
OFFICIAL = {
    "10": ("cifar-10-batches-bin", [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]),
    "100": ("cifar-100-binary", ["train.bin", "test.bin"]),
}
ALL = pytest.mark.parametrize("which", LOAD)


def images_and_labels(which):
    """Random images and labels for each file of the data set."""
    random = np.random.default_rng(0)
    return {
        name: (random.integers(0, 256, (3, 32, 32, 3), np.uint8), random.integers(0, int(which), 3))
        for name in OFFICIAL[which][1]
    }


def files(which):
    """The same images and labels in the binary format, written byte by byte from its description."""
    result = {}
    for name, (images, labels) in images_and_labels(which).items():
        content = io.BytesIO()
        for image, label in zip(images, labels, strict=True):
            content.write(bytes([label]) if which == "10" else bytes([19 - label % 20, label]))
            for channel in range(3):
                for row in range(32):
                    content.write(bytes(int(value) for value in image[row, :, channel]))
        result[name] = content.getvalue()
    return result


def archive(contents):
    """A compressed archive of the given files and of one unrelated file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in {"readme.html": b"<html>", **contents}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def official_archive(which):
    return archive({f"{OFFICIAL[which][0]}/{name}": content for name, content in files(which).items()})


def assert_same(which, loaded):
    *train, test = images_and_labels(which).values()
    train_images, train_labels, test_images, test_labels = loaded
    assert [array.dtype for array in loaded] == [np.uint8, np.int32] * 2
    assert all(array.flags.c_contiguous and array.flags.writeable for array in loaded)
    np.testing.assert_array_equal(train_images, np.concatenate([images for images, _ in train]))
    np.testing.assert_array_equal(train_labels, np.concatenate([labels for _, labels in train]))
    np.testing.assert_array_equal(test_images, test[0])
    np.testing.assert_array_equal(test_labels, test[1])


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No data and no mirrors except those that a test provides."""
    monkeypatch.delenv("FLOWPROP_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(_cifar, "MIRRORS", ())


# From a folder


def flat(which, folder):
    return write(folder, files(which))


def unpacked(which, folder):
    write(folder / OFFICIAL[which][0], files(which))
    return folder


def packed(which, folder):
    return write(folder, {DATASETS[which].archive: official_archive(which)})


def the_archive(which, folder):
    return packed(which, folder) / DATASETS[which].archive


LAYOUTS = [flat, unpacked, packed, the_archive]


@ALL
@pytest.mark.parametrize("layout", LAYOUTS)
def test_root(which, layout, tmp_path):
    root = layout(which, tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    assert_same(which, LOAD[which](root))
    assert_same(which, LOAD[which](str(root)))
    assert sorted(tmp_path.rglob("*")) == before


@ALL
@pytest.mark.parametrize("layout", LAYOUTS)
def test_variable(which, layout, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPROP_DATA", str(layout(which, tmp_path / "data")))
    assert_same(which, LOAD[which]())
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        LOAD[which](tmp_path / "elsewhere")


def test_both_data_sets_in_one_folder(tmp_path):
    flat("10", tmp_path)
    flat("100", tmp_path)
    for which, load in LOAD.items():
        assert_same(which, load(tmp_path))


@ALL
@pytest.mark.parametrize("layout", [flat, unpacked])
def test_missing_file(which, layout, tmp_path, monkeypatch):
    root = layout(which, tmp_path)
    place = root if layout is flat else root / OFFICIAL[which][0]
    name = OFFICIAL[which][1][-1]
    (place / name).unlink()
    monkeypatch.setenv("FLOWPROP_DATA", str(root))
    for given in (None, root):
        with pytest.raises(FileNotFoundError, match=rf"{place} lacks {name}: put cifar-{which}-binary.*FLOWPROP_DATA"):
            LOAD[which](given)
    # An archive next to an incomplete folder is used.
    packed(which, root)
    assert_same(which, LOAD[which]())


def test_variable_names_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPROP_DATA", str(tmp_path / "misspelled"))
    with pytest.raises(FileNotFoundError, match=r"misspelled lacks data_batch_1.bin"):
        fp.data.cifar10()


def test_wrong_root():
    with pytest.raises(TypeError, match="root"):
        fp.data.cifar10(3)


GOOD = {which: files(which) for which in LOAD}
BATCH, TEST = GOOD["10"]["data_batch_3.bin"], GOOD["100"]["test.bin"]
DAMAGE = {
    "empty": ("10", "data_batch_3.bin", b"", "holds 0 bytes where records of 3073"),
    "truncated": ("10", "data_batch_3.bin", BATCH[:-1], "holds 9218 bytes where records of 3073 .* incomplete"),
    "over-long": ("100", "test.bin", TEST + b"\0", "holds 9223 bytes where records of 3074"),
    "label": ("10", "data_batch_3.bin", BATCH[:3073] + b"\x0a" + BATCH[3074:], "label 10 in record 1 where 0 to 9 are"),
    "coarse label": ("100", "test.bin", b"\x14" + TEST[1:], "label 20 in record 0 where 0 to 19"),
    "fine label": ("100", "test.bin", TEST[:1] + b"\x64" + TEST[2:], "label 100 in record 0 where 0 to 99"),
    "the other data set": ("100", "test.bin", BATCH, "holds 9219 bytes where records of 3074"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("compressed", [False, True])
def test_wrong_file(damage, compressed, tmp_path):
    which, name, content, words = DAMAGE[damage]
    contents = {**GOOD[which], name: content}
    if compressed:
        members = {f"{OFFICIAL[which][0]}/{name}": content for name, content in contents.items()}
        contents = {DATASETS[which].archive: archive(members)}
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{name} .*{words}.*download it again"):
        LOAD[which](write(tmp_path, contents))


CIFAR10 = official_archive("10")
DAMAGED_ARCHIVES = {
    "empty": (b"", "is a damaged archive, or no archive"),
    "page": (b"<!DOCTYPE html>" * 100, "is a damaged archive, or no archive"),
    "half": (CIFAR10[: len(CIFAR10) // 2], "is a damaged or incomplete gzip file"),
    "changed byte": (
        CIFAR10[:-2000] + bytes([CIFAR10[-2000] ^ 1]) + CIFAR10[-1999:],
        "is a damaged or incomplete gzip",
    ),
    "half tar": (gzip.compress(gzip.decompress(CIFAR10)[:30000]), "is a damaged archive, or no archive|holds no file"),
    "cifar-100": (official_archive("100"), "holds no file cifar-10-batches-bin/data_batch_1.bin: check"),
    "no folder": (archive(GOOD["10"]), "holds no file cifar-10-batches-bin/data_batch_1.bin: check"),
}


@pytest.mark.parametrize("damage", DAMAGED_ARCHIVES)
def test_wrong_archive(damage, tmp_path):
    content, words = DAMAGED_ARCHIVES[damage]
    root = write(tmp_path, {"cifar-10-binary.tar.gz": content})
    with pytest.raises(ValueError, match=rf"{root}/cifar-10-binary.tar.gz .*({words})"):
        fp.data.cifar10(root)


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_no_regular_file_in_the_archive(kind, tmp_path):
    """The archive has a folder, or a link to itself, with the name of a file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        member = tarfile.TarInfo("cifar-100-binary/train.bin")
        member.type, member.linkname = kind, "train.bin"
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"holds no file cifar-100-binary/train.bin"):
        fp.data.cifar100(write(tmp_path, {"cifar-100-binary.tar.gz": content.getvalue()}))


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
def mirror(tmp_path, monkeypatch):
    """The folder of a local server that has both archives. Their digests replace the published ones."""
    folder = tmp_path / "served"
    for which, name in {"10": "CIFAR10", "100": "CIFAR100"}.items():
        content = official_archive(which)
        write(folder, {DATASETS[which].archive: content})
        monkeypatch.setattr(_cifar, name, DATASETS[which]._replace(md5=hashlib.md5(content).hexdigest()))
    with served(folder) as address:
        monkeypatch.setattr(_cifar, "MIRRORS", (address,))
        yield folder


def cached(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if not path.is_dir()
    )


@ALL
def test_download_once(which, mirror, tmp_path, monkeypatch, capfd):
    assert_same(which, LOAD[which]())
    name = DATASETS[which].archive
    assert cached(tmp_path) == [f"flowprop/cifar/{name}"]
    assert name in capfd.readouterr().err  # the progress bar
    monkeypatch.setattr(_cifar, "MIRRORS", ())
    assert_same(which, LOAD[which]())


@pytest.mark.parametrize("variable", ["", "mnist"])
def test_download_if_the_variable_names_a_folder_of_other_data(variable, mirror, tmp_path, monkeypatch):
    """The variable is used for MNIST too, so a folder without any CIFAR file is not an error."""
    write(tmp_path / "mnist", {"train-images-idx3-ubyte": b"", "data_batch_1": b""})
    monkeypatch.setenv("FLOWPROP_DATA", variable and str(tmp_path / variable))
    assert_same("10", fp.data.cifar10())


def test_damaged_cache_is_replaced(mirror, tmp_path):
    fp.data.cifar10()
    damaged = tmp_path / "cache" / "flowprop" / "cifar" / "cifar-10-binary.tar.gz"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert_same("10", fp.data.cifar10())


def test_wrong_content(mirror, tmp_path):
    """A complete archive is refused if its digest differs."""
    write(mirror, {"cifar-10-binary.tar.gz": archive({"other": b""})})
    with pytest.raises(
        ConnectionError, match=r"(?s)cifar-10.*cannot be downloaded.*has the MD5 digest .*put .*FLOWPROP"
    ):
        fp.data.cifar10()
    assert cached(tmp_path) == []


def test_no_network():
    with pytest.raises(
        ConnectionError, match=r"(?s)cifar-100-binary.tar.gz cannot be downloaded.*put cifar-100.*`root`"
    ):
        fp.data.cifar100()


def test_without_pooch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(ImportError, match=r"flowprop\[data\].*FLOWPROP_DATA"):
        fp.data.cifar10()


def test_published_digests():
    assert [dataset.md5 for dataset in DATASETS.values()] == [
        "c32a1d4ab5d03f1284b67883e8d87530",
        "03b5dce01913d631647c71ecec9e9cb8",
    ]
