"""Bad input to the command: one line, exit code 2, and nothing written."""

import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import flowprop as fp
from flowprop._command import main


CSV = "a,b,y\n" + "".join(f"{i % 7}.5,{i * i % 11},{i % 3}\n" for i in range(30))


def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of every kind, and models of two tasks."""
    path = tmp_path_factory.mktemp("files")
    texts = {
        "good.csv": CSV,
        "good.txt": CSV,
        "empty.csv": "",
        "header.csv": "a,b,y\n",
        "text.csv": CSV.replace("1.5,", "red,"),
        "gap.csv": CSV.replace("1.5,", ","),
        "nan.csv": CSV.replace("1.5,", "nan,"),
        "inf.csv": CSV.replace("1.5,", "-inf,"),
        "huge.csv": CSV.replace("1.5,", "1e300,"),
        "ragged.csv": CSV + "1,2\n",
        "twice.csv": CSV.replace("a,b,y", "a,a,y"),
        "half.csv": CSV.replace(",2\n", ",1.5\n"),
        "negative.csv": CSV.replace(",2\n", ",-2\n"),
        "large.csv": CSV.replace(",2\n", ",2000000\n"),
        "one_class.csv": CSV.replace(",1\n", ",0\n").replace(",2\n", ",0\n"),
        "gap_class.csv": CSV.replace(",1\n", ",3\n"),
        "constant.csv": "a,b,y\n" + "1,2,3\n" * 30,
        "short.csv": "a,b\n1,2\n3,4\n",
        "quote.csv": CSV + '"1,2,3\n',
        "damaged.npy": "no array",
        "damaged.npz": "no zip",
        "damaged.parquet": "no table",
        "damaged.fp": "no model",
    }
    for name, text in texts.items():
        (path / name).write_text(text)
    (path / "bytes.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    np.save(path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(path / "objects.npz", x=np.array([{}, 1], object))
    np.savez(path / "lengths.npz", x=np.zeros(3), y=np.zeros(4))
    np.save(path / "three.npy", np.random.default_rng(0).normal(size=(20, 3)))
    np.save(path / "scalar.npy", np.zeros(()))
    np.save(path / "complex.npy", np.ones((20, 2), complex))
    np.save(path / "records.npy", np.zeros(3, [("a", float)]))
    with zipfile.ZipFile(path / "no_arrays.npz", "w") as archive:
        archive.writestr("note.txt", "text")
    (path / "taken").mkdir()
    (path / "taken" / "notes.txt").write_text("mine")
    fp.save(path / "other.fp", {"a": 1.0})
    task = {"protocol": "fm", "condition": [], "target": None, "classes": 0, "columns": ["a", "b"]}
    fp.save(path / "density.fp", {"a": 1.0}, {"task": {**task, "name": "density"}})
    fp.save(path / "classify.fp", {"a": 1.0}, {"task": {**task, "name": "classify", "target": "y", "classes": 2}})
    fp.save(path / "conditional.fp", {"a": 1.0}, {"task": {**task, "name": "conditional", "condition": ["y"]}})
    return path


def train(data, *options, task="density"):
    return ("train", data, "--task", task, "--output", "new", "--no-progress", *options)


CLASSIFY = {"task": "classify"}
#: What is given -> what the line says.
REFUSALS = [
    (train("absent.csv"), "does not exist"),
    (train("taken"), "extension"),
    (train("good.txt"), "extension '.txt'"),
    (train("empty.csv"), "is empty"),
    (train("header.csv"), "is empty"),
    (train("text.csv"), '"red", which is not a number, in row 2'),
    (train("gap.csv"), "no value in row 2"),
    (train("nan.csv"), "NaN, infinite or too large"),
    (train("inf.csv"), "NaN, infinite or too large"),
    (train("huge.csv"), "NaN, infinite or too large"),
    (train("ragged.csv"), "2 values in row 31"),
    (train("twice.csv"), "2 columns of the name 'a'"),
    (train("quote.csv"), "cannot be read"),
    (train("bytes.csv"), "cannot be read"),
    (train("constant.csv"), "constant in the training rows"),
    (train("short.csv"), "too few"),
    (train("damaged.npy"), "damaged.npy"),
    (train("damaged.npz"), "damaged.npz"),
    (train("damaged.parquet"), "cannot be read"),
    (train("objects.npy"), "objects"),
    (train("objects.npz"), "Python objects"),
    (train("lengths.npz"), "different lengths"),
    (train("no_arrays.npz"), "no_arrays.npz"),
    (train("scalar.npy"), "a single number"),
    (train("complex.npy"), "not a number"),
    (train("records.npy"), "records"),
    (train("good.csv", "--columns", "c"), "no column 'c'"),
    (train("good.csv", "--columns", "a", "a"), "given twice"),
    (train("good.csv", "--target", "y"), "--target is for"),
    (train("good.csv", "--condition", "y"), "--condition is for"),
    (train("good.csv", task="conditional"), "give --condition"),
    (train("good.csv", "--condition", "a", "--columns", "a", task="conditional"), "both in"),
    (train("good.csv", "--condition", "a", "b", "y", task="conditional"), "no columns left"),
    (train("good.csv", **CLASSIFY), "give --target"),
    (train("good.csv", "--target", "c", **CLASSIFY), "no column 'c'"),
    (train("half.csv", "--target", "y", **CLASSIFY), "classes are whole numbers"),
    (train("negative.csv", "--target", "y", **CLASSIFY), "classes are whole numbers"),
    (train("large.csv", "--target", "y", **CLASSIFY), "classes are whole numbers"),
    (train("one_class.csv", "--target", "y", **CLASSIFY), "at least two classes"),
    (train("gap_class.csv", "--target", "y", **CLASSIFY), "no row of class 1"),
    (train("good.csv", "--protocol", "dt"), "--protocol dt is for classify"),
    (train("good.csv", "--protocol", "xx"), "nvalid choice"),
    (train("good.csv", task="nothing"), "nvalid choice"),
    (train("good.csv", "--nonsense", "1"), "nonsense"),
    (train("good.csv", "--steps", "-1"), "--steps is -1"),
    (train("good.csv", "--steps", "many"), "see flowprop --help"),
    (train("good.csv", "--width", "0"), "--width is 0"),
    (train("good.csv", "--depth", "-2"), "--depth is -2"),
    (train("good.csv", "--batch-size", "0"), "--batch-size is 0"),
    (train("good.csv", "--patience", "0"), "--patience is 0"),
    (train("good.csv", "--validation", "0"), "--validation is 0.0"),
    (train("good.csv", "--validation", "1.5"), "--validation is 1.5"),
    (train("good.csv", "--validation", "0.6", "--test", "0.6"), "no rows to train on"),
    (train("good.csv", "--test", "-0.1"), "--test is -0.1"),
    (train("good.csv", "--ema", "1"), "--ema is 1.0"),
    (train("good.csv", "--learning-rate", "nan"), "--learning-rate is nan"),
    (train("good.csv", "--weight-decay", "-1"), "--weight-decay is -1"),
    (train("good.csv", "--seed", "-1"), "--seed is -1"),
    (train("good.csv", "--output", "taken"), "holds other files"),
    (train("good.csv", "--output", "good.txt"), "is not a folder"),
    (("info", "absent.fp"), "does not exist"),
    (("info", "taken"), "is a folder"),
    (("info", "damaged.fp"), "damaged.fp"),
    (("info", "other.fp"), "not saved by `flowprop train`"),
    (("sample", "classify.fp", "--output", "new.csv"), "is a classifier"),
    (("sample", "conditional.fp", "--output", "new.csv"), "by --given"),
    (("sample", "density.fp", "--output", "new.csv", "--given", "good.csv"), "leave out --given"),
    (("sample", "density.fp", "--output", "new.txt"), "extension"),
    (("sample", "density.fp", "--output", "good.csv"), "--overwrite"),
    (("sample", "density.fp", "--output", "absent/new.csv"), "make the folder first"),
    (("sample", "density.fp", "--output", "new.csv", "-n", "-5"), "-n is -5"),
    (("log-prob", "density.fp", "three.npy"), "3 columns where the model has 2"),
    (("log-prob", "density.fp", "text.csv", "--output", "new.csv"), "not a number"),
    (("evaluate", "classify.fp", "good.csv"), "from 0 to 1"),
    (("evaluate", "density.fp", "short.csv", "--seed", "-1"), "--seed is -1"),
    ((), "see flowprop --help"),
]


@pytest.mark.parametrize(("words", "says"), REFUSALS, ids=lambda value: " ".join(value)[:70] if value else "nothing")
def test_bad_input_is_refused_in_one_line(words, says, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = contents(folder)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("flowprop: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert contents(folder) == before


def sources():
    """Good files as bytes, by extension."""
    found = {".csv": CSV.encode()}
    for extension, save in ((".npy", np.save), (".npz", lambda file, array: np.savez(file, x=array))):
        file = io.BytesIO()
        save(file, np.arange(60.0).reshape(20, 3))
        found[extension] = file.getvalue()
    return found


SOURCES = sources()


@pytest.mark.parametrize("extension", SOURCES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line(extension, data, tmp_path):
    """Bytes changed, and the end cut off. `--columns` asks for what no file has, so one that still reads is refused."""
    content = bytearray(SOURCES[extension])
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        content[place] = value
    path = tmp_path / f"file{extension}"
    path.write_bytes(bytes(content[: data.draw(places)]))
    words = train(path, "--columns", "no such column")
    code, _, err = run(*(tmp_path / "new" if word == "new" else word for word in words))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]
