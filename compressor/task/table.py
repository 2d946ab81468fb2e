"""Reading a CSV file: one target column, all others numeric inputs."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, nearest
from compressor.task.base import Examples
from compressor.task.parts import Parts

TARGET_COLUMNS = ("target", "label", "class", "y")
"""Names that mark the target column where none is given, in this order; else it is the last column."""


def read_csv(path: Path, target: str | None, where: str) -> Parts:
    """Read a CSV file with a header line.

    Args:
        path: The file.
        target: The target column, or ``None`` to find it by name, else take the last.
        where: The data as the user named them.

    Returns:
        Inputs ``(N, columns)`` float64 in the file's order, targets ``(N,)``; the name says which column is the target.

    Raises:
        DataError: Not a CSV file, no such target column, a column that is not numeric, or a missing value.
    """
    import pandas

    columns = _header(path)
    if len(columns) == 1:
        raise DataError("has one column; inputs and a target are needed", where=path, mend="separate them by commas")
    # A second target column would be an input.
    if twice := next((name for name, times in Counter(columns).items() if times > 1), None):
        raise DataError(f"has two columns of the name '{twice}'", where=path, mend="leave one of them out")
    if "" in columns:
        raise DataError(
            f"its column {columns.index('')} (counted from 0) has no name",
            where=path,
            mend="name it; if pandas wrote its row numbers there, leave them out: to_csv(…, index=False)",
        )
    frame = _read(path)
    if len(frame.columns) != len(columns):
        raise DataError(
            f"its header has {len(columns)} or {len(frame.columns)} names", where=path, mend="check its quotes"
        )
    if not len(frame):
        raise DataError("has no rows", where=path)
    chosen = _target_column(columns, target, path)
    features = [column for column in columns if column != chosen]
    kinds = dict(zip(columns, frame.dtypes, strict=True))
    text = [name for name in features if not pandas.api.types.is_numeric_dtype(kinds[name])]
    if text:
        raise DataError(
            f"these columns are not numeric: {', '.join(text)}",
            where=path,
            mend="encode them as numbers or leave them out",
        )
    if frame[chosen].isna().any() and not pandas.api.types.is_numeric_dtype(kinds[chosen]):
        # "NA" or "None" among words is a word.
        words = _read(path, usecols=[chosen], dtype=str, keep_default_na=False)[chosen]
        frame[chosen] = words.where(words != "")
    missing = frame.isna().to_numpy()
    if missing.any():
        column, row = divmod(int(missing.T.argmax()), len(frame))
        raise DataError(f"column {columns[column]} has no value in row {row} (counted from 0)", where=path)
    x = frame[features].to_numpy(dtype=np.float64)
    examples = Examples((x,), _targets(frame[chosen]))
    return Parts({"all": examples}, f"{where} (target: {chosen})", columns=tuple(features))


def _read(path: Path, **options: Any) -> Any:
    import pandas

    errors = pandas.errors
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would otherwise be cut, or shifted by taking the first column as an index.
            warnings.simplefilter("error", errors.ParserWarning)
            return pandas.read_csv(path, index_col=False, low_memory=False, **options)
    except (errors.ParserError, errors.EmptyDataError, errors.ParserWarning, UnicodeDecodeError, OSError) as error:
        raise DataError(f"is not a readable CSV file ({error})", where=path) from error


def _header(path: Path) -> list[str]:
    """The names as they stand in the file; pandas changes empty ones and those that come twice."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next((row for row in csv.reader(file) if row), [])
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"is not a readable CSV file ({error})", where=path) from error


def _target_column(columns: list[str], target: str | None, path: Path) -> str:
    if target is not None:
        if target not in columns:
            raise DataError(f"has no column '{target}'", where=path, mend=nearest(target, columns))
        return target
    by_lower = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in TARGET_COLUMNS if name in by_lower), columns[-1])


def _targets(column: Any) -> NDArray[np.generic]:
    if column.dtype.kind in "iubf":
        return np.asarray(column.to_numpy())
    return np.array([str(value) for value in column])
