"""Labels of which an example may have several: rows of 0 and 1, one column per label of the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.model.hf_folder import label_count, read_config
from compressor.task.labels import class_names, class_numbers


def marked(values: Sequence[Any], folder: Path, where: str) -> NDArray[np.int64]:
    """Rows of 0 and 1, one column per label.

    Args:
        values: A list per example: a 0 or 1 for every label, as ``transformers`` takes them for training, or the names
            of those that it has.
        folder: The model's folder.
        where: The data, for messages.

    Returns:
        ``(N, labels)``.

    Raises:
        DataError: A value is no such list, or holds a name that is none of the model's.
    """
    found = np.zeros((len(values), label_count(read_config(folder))), np.int64)
    for row, value in enumerate(values):
        some = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(some, list | tuple):
            raise DataError(
                f"holds {some!r} in row {row} (counted from 0), and the model gives several labels per text",
                where=where,
                mend="give a list per text, in JSON lines or Parquet: a 0 or 1 for each label, or the labels' names",
            )
        if len(some) == found.shape[1] and all(one in (0, 1) for one in some):
            found[row] = some
            continue
        known = class_numbers(map(str, some), folder)
        for name in some:
            if str(name) not in known:
                raise DataError(
                    f"label {name!r} in row {row} (counted from 0) is none of the model's: "
                    f"{', '.join(class_names(folder))}",
                    where=where,
                    mend=f"give the names of those that a text has, or {found.shape[1]} numbers, 0 or 1",
                )
            found[row, known[str(name)]] = 1
    return found
