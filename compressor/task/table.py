"""Reading a CSV file: one target column, all others numeric inputs."""

from __future__ import annotations

import warnings
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

    errors = pandas.errors
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would otherwise be cut, or shifted by taking the first column as an index.
            warnings.simplefilter("error", errors.ParserWarning)
            frame = pandas.read_csv(path, index_col=False, low_memory=False)
    except (errors.ParserError, errors.EmptyDataError, errors.ParserWarning, UnicodeDecodeError) as error:
        raise DataError(f"is not a readable CSV file ({error})", where=path) from error
    columns = [str(column) for column in frame.columns]
    if len(columns) < 2:
        raise DataError("has one column; inputs and a target are needed", where=path, mend="separate them by commas")
    chosen = _target_column(columns, target, path)
    features = [column for column in columns if column != chosen]
    kinds = {column: frame[column].dtype for column in columns}
    text = [column for column in features if not pandas.api.types.is_numeric_dtype(kinds[column])]
    if text:
        raise DataError(
            f"these columns are not numeric: {', '.join(text)}",
            where=path,
            mend="encode them as numbers or leave them out",
        )
    for column in columns:
        if (missing := frame[column].isna().to_numpy()).any():
            row = int(missing.argmax())
            raise DataError(f"column {column} has no value in row {row} (counted from 0)", where=path)
    x = frame[features].to_numpy(dtype=np.float64)
    return Parts({"all": Examples((x,), _targets(frame[chosen]))}, f"{where} (target: {chosen})")


def _target_column(columns: list[str], target: str | None, path: Path) -> str:
    if target is not None:
        if target not in columns:
            raise DataError(f"has no column '{target}'", where=path, mend=nearest(target, columns))
        return target
    by_lower = {column.lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in TARGET_COLUMNS if name in by_lower), columns[-1])


def _targets(column: Any) -> NDArray[np.generic]:
    if column.dtype.kind in "iubf":
        return np.asarray(column.to_numpy())
    return np.array([str(value) for value in column])
