"""Tables in files: `.csv`, `.npy`, `.npz` and `.parquet`, read and written without pickled objects."""

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from .._checkpoint.replace import replacing
from .refused import Refused


EXTENSIONS = (".csv", ".npy", ".npz", ".parquet")


class Table:
    """Columns of one length by name.

    **Arguments:**

    - `path`: the file, for messages.
    - `columns`: the columns, each an array `(n,)` or a list of texts.
    - `groups`: names for several columns at once: those of a matrix in an `.npz` file.
    """

    def __init__(
        self, path: Path, columns: Mapping[str, Any], groups: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if not lengths or not max(lengths.values()):
            raise Refused(f"{path} is empty: give a file with at least one column and one row")
        if len(set(lengths.values())) > 1:
            raise Refused(f"{path} has arrays of different lengths, {_listed(lengths)}: give arrays with the same rows")
        self.path, self._columns, self._groups = path, dict(columns), dict(groups or {})
        self.num_rows = next(iter(lengths.values()))

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return list(self._columns)

    def expand(self, names: Sequence[str]) -> list[str]:
        """The columns that some names of columns and matrices stand for."""
        found = [column for name in names for column in self._groups.get(name, [name])]
        for name in found:
            if name not in self._columns:
                raise Refused(f"{self.path} has no column {name!r}: it has {_listed(self._groups | self._columns)}")
            if found.count(name) > 1:
                raise Refused(f"column {name!r} is given twice: give each column once")
        return found

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Columns as a matrix `(n, k)` of finite numbers, in double precision."""
        values = np.empty((self.num_rows, len(names)))
        for index, name in enumerate(self.expand(names)):
            values[:, index] = self._numbers(name)
        return values

    def _numbers(self, name: str) -> np.ndarray:
        column = self._columns[name]
        try:
            if isinstance(column, np.ndarray) and column.dtype.kind not in "biuf":
                raise ValueError
            numbers = np.asarray(column, dtype=np.float64)
        except (ValueError, OverflowError):
            row = next((i for i, value in enumerate(column) if not _is_number(value)), 0)
            value = column[row]
            what = "no value" if value in ("", None) else f"{_short(value)}, which is not a number,"
            raise Refused(
                f"column {name!r} of {self.path} has {what} in row {row + 1}: drop the row, or leave out the column "
                "with --columns"
            ) from None
        with np.errstate(over="ignore"):
            wrong = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
        if len(wrong):
            raise Refused(
                f"column {name!r} of {self.path} has {_short(numbers[wrong[0]])} in row {wrong[0] + 1} ({len(wrong)} "
                f"of {len(numbers)} rows are NaN, infinite or too large): drop these rows"
            )
        return numbers


def read_table(path: Path) -> Table:
    """Read a file of any of the four kinds.

    **Raises:** `Refused` if there is no such file, or if it is of another kind, damaged or empty.
    """
    readers = {".csv": _read_csv, ".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise Refused(f"{path} has the extension {path.suffix!r}: give a file of {', '.join(EXTENSIONS)}")
    if not path.exists():
        raise Refused(f"{path} does not exist: give the path of a file")
    if not path.is_file():
        raise Refused(f"{path} is not a file: give the path of a file")
    if not path.stat().st_size:
        raise Refused(f"{path} is empty: give a file with at least one column and one row")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return readers[path.suffix](path)
    except Refused:
        raise
    # A damaged file makes its reader raise nearly any error: of zip, zlib, struct, tokenize, memory, Arrow, ...
    except Exception as error:
        if "allow_pickle" in str(error):
            raise Refused(f"{path} holds Python objects, which are not read: save arrays of numbers") from None
        raise Refused(f"{path} cannot be read ({_short(str(error) or type(error).__name__, 100)})") from None


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, strict=True) if row]
    if not rows:
        return Table(path, {})
    has_header = not all(map(_is_number, rows[0]))
    names = [name.strip() for name in rows[0]] if has_header else _numbered("column", len(rows[0]))
    for name in names:
        if not name or names.count(name) > 1:
            raise Refused(f"{path} has {names.count(name)} columns of the name {name!r}: give each column its own name")
    rows = rows[has_header:]
    for index, row in enumerate(rows):
        if len(row) != len(names):
            raise Refused(f"{path} has {len(row)} values in row {index + 1} and {len(names)} columns: correct the row")
    return Table(path, {name: [row[i].strip() for row in rows] for i, name in enumerate(names)})


def _read_npy(path: Path) -> Table:
    # Memory-mapped: a size in the header beyond that of the file is refused before any memory is taken.
    return Table(path, _split(path, "column", np.load(path, mmap_mode="r", allow_pickle=False)))


def _read_npz(path: Path) -> Table:
    columns: dict[str, Any] = {}
    groups = {}
    # A damaged archive leaves the file open if NumPy opens it.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name]
            parts = {name: array} if array.ndim == 1 else _split(path, name, array)
            for part in parts:
                if part in columns:
                    raise Refused(f"{path} has two columns {part!r}: rename one of its arrays")
            columns |= parts
            groups[name] = list(parts)
    return Table(path, columns, groups)


def _read_parquet(path: Path) -> Table:
    parquet = _parquet()
    table = parquet.read_table(path)
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_numpy() if column.null_count == 0 else np.asarray(column.to_pylist(), object)
        columns[name] = values if values.dtype.kind in "biuf" else values.tolist()
    return Table(path, columns)


def _split(path: Path, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of a matrix; rows of a higher rank are flattened."""
    if array.ndim == 0 or array.dtype.names:
        raise Refused(f"{path} holds {'records' if array.ndim else 'a single number'}: give an array with rows")
    matrix = array.reshape(len(array), -1) if array.size else np.empty((0, 0))
    return {part: matrix[:, i] for i, part in enumerate(_numbered(name, matrix.shape[1]))}


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(count)]


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise `Refused` if a table cannot be written to `path`."""
    if path.suffix not in EXTENSIONS:
        raise Refused(f"--output {path} has the extension {path.suffix!r}: give a file of {', '.join(EXTENSIONS)}")
    if not path.parent.is_dir():
        raise Refused(f"--output {path} is in a folder that does not exist: make the folder first")
    if path.exists() and not path.is_file():
        raise Refused(f"--output {path} is not a file: give the path of a file")
    if path.exists() and not overwrite:
        raise Refused(f"--output {path} exists: give another path, or --overwrite")
    if path.suffix == ".parquet":
        _parquet()


def write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns to a file of the kind that its extension names; the file appears as a whole or not at all."""
    writers = {".csv": write_csv, ".npy": _write_npy, ".npz": _write_npz, ".parquet": _write_parquet}
    try:
        with replacing(path) as file:
            writers[path.suffix](file, columns)
    except OSError as error:
        raise Refused(f"--output {path} cannot be written ({error.strerror})") from None


def write_csv(file: IO[bytes], columns: Mapping[str, np.ndarray]) -> None:
    """Write columns as text, with as many digits as their type has."""
    lines = [",".join(_quoted(name) for name in columns)]
    lines += [",".join(str(value) for value in row) for row in zip(*columns.values(), strict=True)]
    file.write(("\n".join(lines) + "\n").encode())


def _write_npy(file: IO[bytes], columns: Mapping[str, np.ndarray]) -> None:
    np.save(file, np.stack(list(columns.values()), axis=1), allow_pickle=False)


def _write_npz(file: IO[bytes], columns: Mapping[str, np.ndarray]) -> None:
    # Not `np.savez(file, **columns)`: a column may have the name of its argument, `file`.
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, column, allow_pickle=False)


def _write_parquet(file: IO[bytes], columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow

    _parquet().write_table(pyarrow.table(dict(columns)), file)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise Refused("files of .parquet need pyarrow: pip install 'flowprop[cli]'") from None
    return pyarrow.parquet


def _is_number(value: Any) -> bool:
    if np.iscomplexobj(value):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n\r') else name


def _short(value: Any, length: int = 40) -> str:
    text = " ".join((value if length > 40 else json.dumps(value, default=str)).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _listed(names: Any) -> str:
    """Up to ten names."""
    names = list(dict.fromkeys(names))
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
