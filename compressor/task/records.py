"""Reading records (rows of named values, text among them) from CSV, JSON lines, Parquet, Arrow and saved data sets."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.errors import DataError
from compressor.model.hf_folder import EXTRA
from compressor.model.quiet import quiet_export
from compressor.task.parts import SPLITS, PartName

Records = Mapping[str, Sequence[Any]]
"""Columns by name, of equal length."""

SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".arrow")

_FIELD_LIMIT = 16 * 2**20


def is_records(path: Path) -> bool:
    """Whether a path is one of the files, or a folder of them, or a data set that ``datasets`` saved."""
    if path.is_dir():
        return _saved(path) or any(_split_files(path))
    return path.suffix.lower() in SUFFIXES


def read_records(path: Path) -> dict[PartName, Records]:
    """Read records by part.

    Args:
        path: A file; or a folder with files named ``train``, ``validation`` (or ``dev``) and ``test``, also with a
            number behind (``train-00000-of-00001.parquet``), in it or in its ``data/``; or what
            ``Dataset.save_to_disk`` wrote.

    Returns:
        ``all`` for one file or one split, else ``test`` with the others. Without a test part, or with one whose
        labels are withheld (all -1, as GLUE does), the validation part is the test.

    Raises:
        DataError: A file cannot be read or has no rows, or the columns of two parts differ.
    """
    if not path.is_dir():
        return {"all": _checked(path, _read(path))}
    if _saved(path):
        found = _read_saved(path)
    else:
        named = {part: [(file, _read(file)) for file in files] for part, files in _split_files(path).items()}
        found = {part: _joined(several) for part, several in named.items()}
    if "test" in found and _withheld(found["test"]):
        del found["test"]
    if "test" not in found and "calibration" in found:
        found["test"] = found.pop("calibration")
    if "test" not in found and "train" in found:
        found = {"all": found["train"]}
    if not found:
        raise DataError("holds no records with labels", where=path, mend="give train.csv and test.csv, for instance")
    return found if len(found) > 1 else {"all": next(iter(found.values()))}


def _withheld(records: Records) -> bool:
    return any(
        name in records and len(records[name]) and all(isinstance(y, int | float) and y == -1 for y in records[name])
        for name in ("label", "labels", "score")
    )


def _saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _split_files(path: Path) -> dict[PartName, list[Path]]:
    """The files of each split, in name order."""
    found: dict[PartName, list[Path]] = {}
    for folder in (path, path / "data"):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            part = _part(file.stem)
            if file.suffix.lower() in SUFFIXES and part is not None:
                found.setdefault(part, []).append(file)
    return found


def _part(name: str) -> PartName | None:
    """The part that a file or a split is, by the word that its name begins with: ``train-00000-of-00002``."""
    word = re.match(r"[a-z]+", name.lower())
    return None if word is None else SPLITS.get(word[0])


def _joined(several: Sequence[tuple[Path, Records]]) -> Records:
    first = several[0][0]
    joined: dict[str, list[Any]] = {name: [] for name in several[0][1]}
    for place, records in several:
        if _checked(place, records).keys() != joined.keys():
            raise DataError(f"has other columns than {first.name}", where=place)
        for name, values in records.items():
            joined[name].extend(values)
    return joined


def _checked(path: Path, records: Records) -> Records:
    if not records or not len(next(iter(records.values()))):
        raise DataError("has no rows", where=path)
    return records


def _read(path: Path) -> Records:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path)
    if suffix in (".json", ".jsonl"):
        return _read_json(path)
    return _read_arrow(path)


def _read_csv(path: Path) -> Records:
    """Every value is text as it stands: what looks like a number or a missing value may be a word."""
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [row for row in reader if row]
            lines = reader.line_num
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"is not a readable CSV file ({error})", where=path) from error
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        raise DataError(f"has one column, '{header[0]}'", where=path, mend="separate them by commas")
    if len(set(header)) < len(header):
        raise DataError("has two columns of one name", where=path)
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(
                f"row {index} (counted from 0) has {len(row)} values and the header {len(header)}",
                where=f"{path}, {lines} lines",
                mend='put texts with commas in double quotes, and double the quotes in them ("")',
            )
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _read_json(path: Path) -> Records:
    """One object per line, or one list of objects."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"is not UTF-8 text ({error})", where=path) from error
    if text.lstrip().startswith("["):
        rows = {f"row {index} (counted from 0)": row for index, row in enumerate(_parsed(text, path, "it"))}
    else:
        # Not splitlines: JSON strings may hold U+2028 and other separators as they are.
        lines = {f"line {number}": line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
        rows = {place: _parsed(line, path, place) for place, line in lines.items()}
    first = next(iter(rows.values()), None)
    names = first.keys() if isinstance(first, dict) else {}
    for place, row in rows.items():
        if not isinstance(row, dict):
            raise DataError(f"{place} is a {type(row).__name__}, not an object with named values", where=path)
        if row.keys() != names:
            raise DataError(f"{place} has not the keys of the first", where=path)
    return {name: [row[name] for row in rows.values()] for name in names}


def _parsed(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        # The parser counts lines of its own.
        why = str(error).replace("line 1 column", "column")
        mend = "give one object on each line, or one list of objects"
        raise DataError(f"{place} is not JSON ({why})", where=path, mend=mend) from error


def _read_arrow(path: Path) -> Records:
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise DataError(f"needs the package pyarrow to be read as {path.suffix}", where=path, mend=EXTRA) from error
    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path)
        else:
            with pyarrow.memory_map(str(path)) as source:
                # datasets writes streams, others files.
                head = source.read(6)
                source.seek(0)
                table = (ipc.open_file if head == b"ARROW1" else ipc.open_stream)(source).read_all()
        columns: dict[str, list[Any]] = table.to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"is not a readable {path.suffix} file ({error})", where=path) from error
    return columns


def _read_saved(path: Path) -> dict[PartName, Records]:
    try:
        with quiet_export():
            import datasets
    except ImportError as error:
        raise DataError("needs the package datasets to be read", where=path, mend=EXTRA) from error
    try:
        with quiet_export():
            found: Any = datasets.load_from_disk(str(path))
            splits = dict(found) if hasattr(found, "keys") else {"all": found}
            columns = {name: split.with_format(None).to_dict() for name, split in splits.items()}
    except Exception as error:  # pyarrow, JSON and the library's own
        raise DataError(f"is not a readable saved data set ({error})", where=path) from error
    if "all" in columns:
        return {"all": _checked(path, columns["all"])}
    several: dict[PartName, list[tuple[Path, Records]]] = {}
    for name, records in columns.items():
        if (part := _part(name)) is not None:
            several.setdefault(part, []).append((path / name, records))
    if not several:
        raise DataError(f"its splits are {', '.join(columns)}", where=path, mend="name them train, validation and test")
    return {part: _joined(some) for part, some in several.items()}
