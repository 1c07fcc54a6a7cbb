"""Files on disk: written completely or not at all, and read in bounded memory."""

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


SAVED = {"a": jnp.arange(3.0), "b": 2.5}
LIKE = {"a": jnp.zeros(3), "b": 0.0}


def same(loaded):
    """Whether these are the values saved, bit for bit."""
    return np.asarray(loaded["a"]).tobytes() == np.asarray(SAVED["a"]).tobytes() and loaded["b"] == SAVED["b"]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.fp"
    fp.save(path, SAVED)
    return path


def node(array="float32[3]", **more):
    return {"is": "dict", "parts": {"['a']": {"is": array, "file": "0.npy"} | more}}


def write(path, header, compression=zipfile.ZIP_STORED, **arrays):
    """A file made by hand: a header, and arrays as such or as bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            if isinstance(array, bytes):
                buffer.write(array)
            else:
                np.save(buffer, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())
        archive.writestr("header.json", header if isinstance(header, bytes) else json.dumps(header))


def npy(header, values=b""):
    """An npy array with any header."""
    text = f"{header}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values


def peak(function):
    """The most memory that Python and NumPy held at once, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestDamage:
    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            fp.load(tmp_path / "nowhere", LIKE)

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
    def test_not_a_zip(self, content, tmp_path):
        (tmp_path / "model").write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` .*model is damaged or not a file of `fp.save`"):
            fp.load(tmp_path / "model", LIKE)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_truncated(self, share, path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="is damaged"):
            fp.load(path, LIKE)

    def test_flipped_bits(self, path):
        """For each flipped bit: an error of the right kind, or no difference (for example in a time stamp)."""
        content, messages = path.read_bytes(), []
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << (place % 8)
            path.write_bytes(flipped)
            try:
                loaded = fp.load(path, LIKE)
            except ValueError as error:
                messages.append(str(error))
            else:
                assert same(loaded)
        assert len(messages) > len(content) / 2
        assert all(str(path) in message for message in messages)

    @pytest.mark.parametrize("format", ["flowprop-1", "flowprop-3"])
    def test_another_format(self, format, tmp_path):
        write(tmp_path / "model", {"format": format, "leaves": {}})
        with pytest.raises(ValueError, match=f"has format '{format}' where this version reads 'flowprop-2': read it"):
            fp.load(tmp_path / "model", LIKE)

    @pytest.mark.parametrize(
        "header",
        [
            [],
            3,
            {},
            {"format": "flowprop-2"},
            {"format": "flowprop-2", "tree": [1]},
            {"format": "flowprop-2", "tree": {"is": "dict", "parts": [1]}},
            {"format": "flowprop-2", "tree": {"is": 3}},
            b"[" * 100_000,
        ],
        ids=str,
    )
    def test_a_header_of_another_kind(self, header, tmp_path):
        write(tmp_path / "model", header)
        with pytest.raises(ValueError, match="model"):
            fp.load(tmp_path / "model", LIKE)

    @pytest.mark.parametrize(
        ("kind", "like", "value"),
        [
            ("a float", 0.0, "1e3"),
            ("a float", 0.0, 1),
            ("a float", 0.0, None),
            ("an int", 0, 1.0),
            ("an int", 0, True),
            ("a bool", False, "False"),
            ("a bool", False, 0),
            ("a complex number", 0j, [1.0, "2"]),
            ("a complex number", 0j, [1.0]),
            ("a complex number", 0j, 1.0),
        ],
    )
    def test_a_value_of_another_type_is_not_coerced(self, kind, like, value, tmp_path):
        write(tmp_path / "model", {"format": "flowprop-2", "tree": {"is": kind, "value": value}})
        with pytest.raises(ValueError, match=r"is damaged or not a file of `fp.save`"):
            fp.load(tmp_path / "model", like)

    def test_pickled_objects_are_not_read(self, tmp_path):
        """A pickle runs code when it is read. This one would create a file."""

        class Harmful:
            def __reduce__(self):
                return (open, (str(tmp_path / "harm"), "w"))

        write(tmp_path / "model", {"format": "flowprop-2", "tree": node()}, **{"0": np.array([Harmful()] * 3, object)})
        with pytest.raises(ValueError, match=r"is damaged or not a file of `fp.save`: .*holds object\[3\]"):
            fp.load(tmp_path / "model", {"a": jnp.zeros(3)})
        assert not (tmp_path / "harm").exists()

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros(4, np.float32),
            np.zeros(3, np.float64),
            np.zeros((3, 1), np.float32),
            npy({"descr": "<f4", "fortran_order": False, "shape": (3,)}, bytes(11)),
            npy({"descr": "<f4", "fortran_order": False, "shape": (3,)}, bytes(13)),
            npy({"descr": "<f4", "fortran_order": False, "shape": (10**15,)}, bytes(12)),
            npy({"descr": "<f4", "fortran_order": True, "shape": (3,)}, bytes(12)),
            b"nothing",
        ],
        ids=["longer", "type", "shape", "ends early", "goes on", "huge", "order", "no npy"],
    )
    def test_an_array_that_differs_from_its_header(self, array, tmp_path):
        write(tmp_path / "model", {"format": "flowprop-2", "tree": node()}, **{"0": array})
        with pytest.raises(ValueError, match="is damaged"):
            fp.load(tmp_path / "model", {"a": jnp.zeros(3)})


class TestMemory:
    """A small file that would expand to gigabytes raises an error before it is read."""

    MiB = 2**20

    @pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressed_entries(self, compression, tmp_path):
        path = tmp_path / "model"
        zeros = np.zeros(50 * self.MiB // 4, np.float32)
        write(path, {"format": "flowprop-2", "tree": node(f"float32[{zeros.size}]")}, compression, **{"0": zeros})
        assert path.stat().st_size < self.MiB
        like = {"a": jax.ShapeDtypeStruct(zeros.shape, zeros.dtype)}

        def load():
            with pytest.raises(ValueError, match=r"its entry header.json is compressed, which `fp.save` never does"):
                fp.load(path, like)

        assert peak(load) < self.MiB

    def test_a_compressed_array(self, tmp_path):
        """A correct header, and an array of 300 MB in 0.3 MB."""
        path = tmp_path / "model"
        size = 300 * self.MiB // 4
        block = bytes(self.MiB)
        with zipfile.ZipFile(path, "w") as archive:
            header = {"format": "flowprop-2", "tree": node(f"float32[{size}]")}
            archive.writestr("header.json", json.dumps(header))
            info = zipfile.ZipInfo("0.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as stream:
                stream.write(npy({"descr": "<f4", "fortran_order": False, "shape": (size,)}))
                for _ in range(300):
                    stream.write(block)
        assert path.stat().st_size < self.MiB

        def load():
            with pytest.raises(ValueError, match=r"its entry 0.npy is compressed"):
                fp.load(path, {"a": jax.ShapeDtypeStruct((size,), jnp.float32)})

        assert peak(load) < self.MiB

    def test_an_entry_larger_than_its_array(self, tmp_path):
        path = tmp_path / "model"
        write(path, {"format": "flowprop-2", "tree": node()}, **{"0": np.zeros(5 * self.MiB, np.float32)})

        def load():
            with pytest.raises(ValueError, match=r"its entry 0.npy has 20971648 bytes where at most 1036 are allowed"):
                fp.load(path, {"a": jnp.zeros(3)})

        assert peak(load) < self.MiB

    def test_a_large_header(self, tmp_path):
        path = tmp_path / "model"
        write(path, json.dumps({"format": "flowprop-2", "tree": node()}).encode() + b" " * 16 * self.MiB)

        def load():
            with pytest.raises(ValueError, match=r"entry header.json has \d+ bytes where at most 16777216 are allowed"):
                fp.load(path, {"a": jnp.zeros(3)})

        assert peak(load) < self.MiB

    def test_a_model_that_needs_one_is_not_saved(self, tmp_path):
        model = {"x" * 2**24: 1.0}
        with pytest.raises(ValueError, match=r"`model` needs a description of \d+ bytes"):
            fp.save(tmp_path / "model", model)
        assert list(tmp_path.iterdir()) == []

    def test_loading_takes_little_more_than_the_arrays(self, tmp_path):
        path = tmp_path / "model"
        saved = np.random.default_rng(0).integers(0, 255, 64 * self.MiB, np.uint8)
        fp.save(path, saved)
        assert peak(lambda: fp.load(path, saved)) < 64 * self.MiB + 40 * self.MiB
        assert peak(lambda: fp.save(path, saved)) < 40 * self.MiB


class TestWriting:
    def test_a_full_disk_leaves_the_old_file(self, path, monkeypatch):
        before, write_array = path.read_bytes(), np.lib.format.write_array

        def full(stream, array, **kwargs):
            write_array(stream, array, **kwargs)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OSError, match="No space left on device"):
            fp.save(path, LIKE)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["model.fp"]

    @pytest.mark.parametrize("at", ["replace", "fsync", "chmod"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_an_interruption_leaves_nothing_new(self, at, error, path, monkeypatch):
        before = path.read_bytes()

        def interrupted(*args):
            raise error

        monkeypatch.setattr(os, at, interrupted)
        with pytest.raises(error):
            fp.save(path, LIKE)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["model.fp"]

    def test_file_and_folder_are_synced(self, path, monkeypatch):
        """The file before it is renamed, the folder after."""
        events, fsync, replace = [], os.fsync, os.replace

        def synced(descriptor):
            events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            fsync(descriptor)

        def replaced(*names):
            events.append("renamed")
            replace(*names)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)
        fp.save(path, SAVED)
        assert events == ["file", "renamed", "folder"]

    def test_a_folder_that_cannot_be_synced_is_no_error(self, path, monkeypatch):
        fsync = os.fsync

        def refused(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(22, "Invalid argument")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refused)
        fp.save(path, SAVED)
        assert same(fp.load(path, LIKE))

    def test_a_file_is_replaced(self, path):
        fp.save(path, {"a": 1})
        assert fp.load(path, {"a": 0}) == {"a": 1}
        assert [file.name for file in path.parent.iterdir()] == ["model.fp"]

    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_has_the_usual_mode_of_a_new_file(self, mask, tmp_path):
        before = os.umask(mask)
        try:
            fp.save(tmp_path / "model", {"a": 1})
            (tmp_path / "other").write_bytes(b"")
        finally:
            os.umask(before)
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("model", "other")]
        assert modes[0] == modes[1] == 0o666 & ~mask

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400])
    def test_the_mode_of_a_replaced_file_is_kept(self, mode, path, monkeypatch):
        """Its mode never allows more readers, not even for a moment."""
        path.chmod(mode)
        modes, write_array = [], np.lib.format.write_array

        def spy(*args, **kwargs):
            modes.extend(stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir())
            write_array(*args, **kwargs)

        monkeypatch.setattr(np.lib.format, "write_array", spy)
        fp.save(path, SAVED)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert modes == [mode, mode]

    @pytest.mark.parametrize("relative", [True, False])
    def test_a_link_stays_and_its_target_is_replaced(self, relative, path):
        (path.parent / "elsewhere").mkdir()
        link = path.parent / "elsewhere" / "latest.fp"
        link.symlink_to("../model.fp" if relative else path)
        fp.save(link, {"a": 1})
        assert link.is_symlink()
        assert fp.load(path, {"a": 0}) == fp.load(link, {"a": 0}) == {"a": 1}
        assert [file.name for file in link.parent.iterdir()] == ["latest.fp"]

    def test_a_link_to_nothing_makes_its_target(self, tmp_path):
        (tmp_path / "latest.fp").symlink_to("run.fp")
        fp.save(tmp_path / "latest.fp", SAVED)
        assert (tmp_path / "latest.fp").is_symlink()
        assert same(fp.load(tmp_path / "run.fp", LIKE))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            fp.save(tmp_path / "nowhere" / "model", {"a": 1})

    def test_a_long_name(self, tmp_path):
        path = tmp_path / ("ä" * 125)
        fp.save(path, {"a": 1})
        assert fp.load(path, {"a": 0}) == {"a": 1}
        assert list(tmp_path.iterdir()) == [path]


class TestWhatIsNoFile:
    @pytest.fixture
    def places(self, tmp_path):
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("pipe")
        return {
            "folder": tmp_path / "folder",
            "pipe": tmp_path / "pipe",
            "link": tmp_path / "link",
            "device": Path(os.devnull),
        }

    @pytest.mark.parametrize("name", ["folder", "pipe", "link", "device"])
    def test_is_neither_replaced_nor_read(self, name, places):
        path = places[name]
        before = path.lstat()
        what = "folder" if name == "folder" else "device, pipe or socket"
        message = f"`path` {re.escape(str(path))} is a {what}: give the path of a regular file"
        with pytest.raises(ValueError, match=message):
            fp.save(path, SAVED)
        with pytest.raises(ValueError, match=message):
            fp.load(path, LIKE)
        after = path.lstat()
        assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


class TestPartFiles:
    """Part files that are left over from killed saves, and part files that other processes are writing."""

    @staticmethod
    def part(folder, name, age):
        file = folder / name
        file.write_bytes(b"half")
        then = time.time() - age
        os.utime(file, (then, then))
        return file

    def test_only_old_ones_of_the_same_file_are_removed(self, path):
        stale = self.part(path.parent, f".model.fp.{'0' * 32}.part", 1000)
        kept = [
            self.part(path.parent, f".model.fp.{'1' * 32}.part", 10),
            self.part(path.parent, f".other.fp.{'2' * 32}.part", 1000),
            self.part(path.parent, f".model.fp.more.{'3' * 32}.part", 1000),
            self.part(path.parent, ".model.fp.mine.part", 1000),
            self.part(path.parent, f".modelxfp.{'4' * 32}.part", 1000),
        ]
        fp.save(path, SAVED)
        assert not stale.exists()
        assert all(file.read_bytes() == b"half" for file in kept)

    def test_those_of_a_killed_process(self, tmp_path):
        """A save is killed with a half-written file. A later save removes the file when it is old."""
        path = tmp_path / "model.fp"
        fp.save(path, SAVED)
        before = path.read_bytes()
        code = f"""
import os, time
import flowprop as fp
os.fsync = lambda descriptor: (print("now", flush=True), time.sleep(60))
fp.save({str(path)!r}, {{"a": 1}})
"""
        environment = {**os.environ, "PYTHONPATH": str(Path(fp.__file__).parents[1])}
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.readline() == b"now\n"
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() == before
        (part,) = set(tmp_path.iterdir()) - {path}
        assert re.fullmatch(r"\.model\.fp\.[0-9a-f]{32}\.part", part.name)
        fp.save(path, SAVED)
        assert part.exists()
        os.utime(part, (0, 0))
        fp.save(path, SAVED)
        assert [file.name for file in tmp_path.iterdir()] == ["model.fp"]

    def test_many_may_save_to_one_path(self, tmp_path):
        """The file is always complete, and has the content of the last save."""
        path, errors = tmp_path / "model", []
        models = [{"a": jnp.full(1000, float(i))} for i in range(4)]

        def work(model):
            try:
                for _ in range(10):
                    fp.save(path, model)
                    values = np.asarray(fp.load(path, model)["a"])
                    assert np.all(values == values[0])
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert [file.name for file in tmp_path.iterdir()] == ["model"]
