"""Opening data: a built-in data set, a file, a folder or a callable of the user's, told apart by what was named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from compressor.errors import DataError, nearest
from compressor.results import TensorSpec
from compressor.task import fashion_mnist
from compressor.task.arrays import read_npy, read_npz
from compressor.task.base import Examples, Task
from compressor.task.parts import Parts, gather
from compressor.task.pictures import read_pictures
from compressor.task.prepare import LEAST, Needs, prepare
from compressor.task.table import read_csv
from compressor.task.user_code import is_reference, load_callable

Inputs = tuple[TensorSpec, ...] | None

_FILE_KINDS = (".csv", ".npy", ".npz")
_KINDS = "a .npy, .npz or .csv file, a folder of pictures by class, or file.py:callable"


def open_task(
    data: str,
    *,
    metric: str | None = None,
    inputs: Inputs = None,
    outputs: tuple[TensorSpec, ...] | None = None,
    target: str | None = None,
    seed: int = 0,
    calibration_limit: int = 512,
    test_limit: int | None = None,
) -> Task:
    """Open data as a task.

    Args:
        data: One of

            - ``fashion-mnist`` (official splits) or ``demo`` (a slice of it that is installed with the package);
            - a ``.npz`` file with ``x`` and ``y``, or ``train_x``, ``calibration_x``, ``test_x`` and their ``_y``;
              several inputs under the names of the model's inputs instead of ``x``;
            - a ``.npy`` file of inputs, with targets in ``NAME_y.npy`` or ``y.npy`` beside it, if any;
            - a ``.csv`` file, see :func:`compressor.task.table.read_csv`;
            - a folder of pictures by class, see :func:`compressor.task.pictures.read_pictures`;
            - ``package.module:callable`` or ``file.py:callable``, which returns a :class:`Task`, ``(x, y)``, or a
              dict with the keys of a ``.npz`` file.
        metric: See :func:`compressor.task.metrics.metric`. By default ``accuracy`` for whole numbers and text,
            ``mse`` for other numbers, and agreement with the original model where there are no targets: the task
            then needs :func:`compressor.task.synthetic.with_reference` before it can score.
        inputs: The model's inputs: arrays must fit their shapes and are brought to their element types.
        outputs: The model's outputs: labels must be within their range.
        target: The target column of a CSV file.
        seed: Of every draw.
        calibration_limit: Most examples to calibrate on.
        test_limit: Most examples to score, drawn with each class in proportion; ``None`` for all.

    Returns:
        The task; an :class:`~compressor.task.array_task.ArrayTask` says in ``notes`` what was done to the data.

    Raises:
        DataError: No such data or metric, or they do not fit the model.
    """
    for name, limit in (("calibration_limit", calibration_limit), ("test_limit", test_limit)):
        if limit is not None and limit < LEAST:
            raise DataError(f"is {limit}; at least {LEAST} examples are needed", where=name)
    if target is not None and not data.lower().endswith(".csv"):
        raise DataError("a target column can be named for a CSV file only", where=data)
    needs = Needs(metric, inputs, outputs, seed, calibration_limit, test_limit)
    if data in _BUILT_IN:
        return prepare(_BUILT_IN[data](inputs), needs, data)
    path = Path(data)
    if not path.exists() and is_reference(data):
        found = _call(data, inputs)
        if isinstance(found, Parts):
            return prepare(found, needs, data)
        if metric is not None:
            raise DataError("returns a task, which brings its own metric", where=data, mend="leave the metric out")
        return found
    return prepare(_read(path, data, inputs, target), needs, data)


def _read(path: Path, data: str, inputs: Inputs, target: str | None) -> Parts:
    suffix = path.suffix.lower()
    if path.is_dir():
        return read_pictures(path, inputs, path.name)
    if not path.exists():
        if suffix in _FILE_KINDS or len(path.parts) > 1:
            raise DataError("there is no such file or folder", where=data)
        raise DataError(f"there is no data '{data}'", mend=f"{nearest(data, _BUILT_IN)}; or give {_KINDS}")
    if suffix == ".csv":
        return read_csv(path, target, path.name)
    if suffix == ".npz":
        return read_npz(path, inputs, path.name)
    if suffix == ".npy":
        return read_npy(path, path.name)
    raise DataError(f"'{suffix}' is no kind of data that can be read", where=data, mend=f"give {_KINDS}")


def _fashion_mnist(_: Inputs) -> Parts:
    (train_x, train_y), (test_x, test_y) = fashion_mnist.load_bytes("train"), fashion_mnist.load_bytes("test")
    return Parts({"train": Examples((train_x,), train_y), "test": Examples((test_x,), test_y)}, "fashion-mnist")


def _demo(inputs: Inputs) -> Parts:
    with resources.as_file(resources.files("compressor.demo") / "data.npz") as path:
        if not path.is_file():
            raise DataError("its data file is not installed", where="demo", mend="install the package again")
        return read_npz(path, inputs, "demo")


_BUILT_IN: Mapping[str, Callable[[Inputs], Parts]] = {"demo": _demo, "fashion-mnist": _fashion_mnist}


def _call(reference: str, inputs: Inputs) -> Parts | Task:
    function = load_callable(reference)
    try:
        found: Any = function()
    except Exception as error:
        raise DataError(f"raised {type(error).__name__}: {error}", where=reference) from error
    if all(callable(getattr(found, name, None)) for name in ("calibration", "training", "test", "evaluate")):
        return found
    if isinstance(found, tuple) and len(found) == 2:
        found = {"x": found[0], "y": found[1]}
    if not isinstance(found, Mapping):
        raise DataError(
            f"returned an object of type {type(found).__name__}",
            where=reference,
            mend="return a Task, (x, y), or a dict with x and y",
        )
    arrays = {str(key): np.asarray(value) for key, value in found.items() if value is not None}
    return gather(arrays, inputs, reference)
