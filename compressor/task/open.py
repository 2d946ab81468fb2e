"""Opening data: a built-in data set, a file, a folder or a callable of the user's, told apart by what was named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, nearest
from compressor.model import hf_folder
from compressor.results import TaskSummary, TensorSpec
from compressor.task import fashion_mnist
from compressor.task.arrays import read_npy, read_npz
from compressor.task.base import Examples, Task
from compressor.task.language import open_text
from compressor.task.parts import PartName, Parts, gather
from compressor.task.pictures import read_pictures
from compressor.task.prepare import LEAST, Needs, prepare
from compressor.task.table import read_csv
from compressor.task.user_code import is_reference, load_callable
from compressor.task.views import Scoring, pooling_of, scoring_of

if TYPE_CHECKING:
    from compressor.task.text import Reading

Inputs = tuple[TensorSpec, ...] | None

MEDIA_TASKS = frozenset({"image-classification", "audio-classification"})

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
    reading: Reading | None = None,
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
              dict with the keys of a ``.npz`` file;
            - for a Hugging Face model also texts: CSV, JSON lines, Parquet, a folder of those or a data set that
              ``datasets`` saved, see :func:`compressor.task.text.read_texts`; a callable may return texts as ``x``;
              for embeddings pairs of texts with grades, see :mod:`compressor.task.similarity`; and for sounds a folder
              of ``.wav`` files by class;
            - for a causal language model also plain text, a ``.txt`` file, see :mod:`compressor.task.language`.
        metric: See :func:`compressor.task.metrics.metric`. By default ``accuracy`` for whole numbers and text,
            ``mse`` for other numbers, and agreement with the original model where there are no targets: the task
            then needs :func:`compressor.task.synthetic.with_reference` before it can score.
        inputs: The model's inputs: arrays must fit their shapes and are brought to their element types.
        outputs: The model's outputs: labels must be within their range.
        target: The target column of a CSV file, or of other records.
        seed: Of every draw.
        calibration_limit: Most examples to calibrate on.
        test_limit: Most examples to score, drawn with each class in proportion; ``None`` for all.
        reading: How a Hugging Face model reads its data; ``None`` for any other model.

    Returns:
        The task; an :class:`~compressor.task.array_task.ArrayTask` says in ``notes`` what was done to the data.

    Raises:
        DataError: No such data or metric, or they do not fit the model.
    """
    for name, limit in (("calibration_limit", calibration_limit), ("test_limit", test_limit)):
        if limit is not None and limit < LEAST:
            raise DataError(f"is {limit}; at least {LEAST} examples are needed", where=name)
    transformer = reading is not None and inputs is not None
    records = transformer and _reads_records(Path(data), reading)
    if target is not None and not data.lower().endswith(".csv") and not records:
        raise DataError("a target column can be named for a CSV file only", where=data)
    scoring = scoring_for(reading, inputs)
    # What is scored instead of the output itself has another shape.
    scored = outputs if scoring is None else None
    needs = Needs(metric, inputs, scored, seed, calibration_limit, test_limit, scoring)
    if data in _BUILT_IN:
        return prepare(_BUILT_IN[data](inputs), needs, data)
    path = Path(data)
    if not path.exists() and is_reference(data):
        found = _call(data, inputs, reading)
        if isinstance(found, Parts):
            return prepare(found, needs, data)
        if metric is not None:
            raise DataError("returns a task, which brings its own metric", where=data, mend="leave the metric out")
        return found
    generates = reading is not None and reading.task == hf_folder.GENERATION
    if reading is not None and generates and path.suffix.lower() == ".txt" and path.is_file():
        return open_text(path, reading.folder, inputs=inputs or (), metric=metric, test_limit=test_limit)
    if reading is not None and inputs is not None and path.exists():
        if records:
            return _open_records(path, reading, needs, data)
        if path.is_dir():
            from compressor.task.media import read_media

            return prepare(read_media(path, reading.folder, reading.task, inputs, path.name), needs, data)
    parts = _read(path, data, inputs, target)
    # Of a CSV file the name says which column became the target; a message without that would puzzle.
    return prepare(parts, needs, data + parts.name.removeprefix(path.name))


def _open_records(path: Path, reading: Reading, needs: Needs, data: str) -> Task:
    from compressor.task.records import read_records
    from compressor.task.similarity import graded, open_pairs
    from compressor.task.text import read_texts

    found = read_records(path)
    if needs.scoring is not None and reading.task == "feature-extraction":
        columns = graded(next(iter(found.values())), reading, path.name)
        if columns is not None:
            return open_pairs(found, columns, reading, needs.scoring, needs, path.name, data)
    return prepare(read_texts(found, reading, needs.inputs or (), path.name), needs, data)


def _reads_records(path: Path, reading: Reading | None) -> bool:
    """Whether these are rows of named values for a model that reads text."""
    from compressor.task.records import is_records

    return reading is not None and reading.task not in MEDIA_TASKS and path.exists() and is_records(path)


def reading_for(
    model: Path, *, hf_task: str | None, text: tuple[str, ...] | None, target: str | None, max_length: int | None
) -> Reading | None:
    """How a model reads its data, if it is a Hugging Face folder or an ONNX file in one.

    Args:
        model: The folder, or the file.
        hf_task: The task, if the user named it.
        text: Columns of the text, if named.
        target: Column of the target, if named.
        max_length: Tokens per text, if named.

    Returns:
        ``None`` for any other model.

    Raises:
        DataError: Text columns or a length are named and the model is another, or the length is too short.
    """
    folder = model if model.is_dir() else model.parent
    if not hf_folder.is_known(folder):
        if text is not None or max_length is not None:
            raise DataError(
                "belongs to Hugging Face models, which read texts",
                where="--text" if text is not None else "--max-length",
                mend="leave it out, or give the model's folder",
            )
        return None
    from compressor.task.text import MAX_LENGTH, Reading

    if max_length is not None and max_length < 2:
        raise DataError(f"is {max_length}; at least 2 tokens are needed", where="--max-length")
    about = hf_folder.Folder(folder, hf_folder.read_config(folder), (), pickled=False)
    return Reading(folder, hf_folder.task_of(about, hf_task), text, target, max_length or MAX_LENGTH)


def scoring_for(reading: Reading | None, inputs: Inputs) -> Scoring | None:
    """What of a Hugging Face model's output is scored; ``None`` for the output as it is."""
    if reading is None or inputs is None:
        return None
    if reading.task == "feature-extraction":
        return scoring_of(reading.task, inputs, pooling=pooling_of(reading.folder))
    return scoring_of(reading.task, inputs, problem=hf_folder.problem_of(hf_folder.read_config(reading.folder)))


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
    examples: dict[PartName, Examples] = {"train": Examples((train_x,), train_y), "test": Examples((test_x,), test_y)}
    return Parts(examples, "fashion-mnist", class_names=fashion_mnist.CLASSES)


def _demo(inputs: Inputs) -> Parts:
    with resources.as_file(resources.files("compressor.demo") / "data.npz") as path:
        if not path.is_file():
            raise DataError("its data file is not installed", where="demo", mend="install the package again")
        return replace(read_npz(path, inputs, "demo"), class_names=fashion_mnist.CLASSES)


_BUILT_IN: Mapping[str, Callable[[Inputs], Parts]] = {"demo": _demo, "fashion-mnist": _fashion_mnist}


def _call(reference: str, inputs: Inputs, reading: Reading | None) -> Parts | Task:
    function = load_callable(reference)
    try:
        found: Any = function()
    except (Exception, SystemExit) as error:
        raise DataError(f"raised {type(error).__name__}: {error}", where=reference) from error
    if all(callable(getattr(found, name, None)) for name in ("calibration", "training", "test", "evaluate")):
        if not isinstance(getattr(found, "summary", None), TaskSummary) or not isinstance(found.test(), Examples):
            raise DataError("returned a task without a TaskSummary as summary or Examples as test()", where=reference)
        return found
    if isinstance(found, tuple) and len(found) == 2:
        found = {"x": found[0], "y": found[1]}
    if not isinstance(found, Mapping):
        raise DataError(
            f"returned an object of type {type(found).__name__}",
            where=reference,
            mend="return a Task, (x, y), or a dict with x and y",
        )
    arrays = {str(key): _array(value, f"{key}", reference) for key, value in found.items() if value is not None}
    if reading is not None and inputs is not None and arrays.get("x", np.empty(0)).dtype.kind == "U":
        from compressor.task.text import read_texts

        records = {"text": arrays["x"].tolist()} | ({"label": arrays["y"].tolist()} if "y" in arrays else {})
        return read_texts({"all": records}, replace(reading, text=None, target=None), inputs, reference)
    return gather(arrays, inputs, reference)


def _array(value: Any, key: str, reference: str) -> NDArray[np.generic]:
    try:
        array = np.asarray(value)
    except Exception as error:  # rows of different lengths, a tensor with a gradient, …
        raise DataError(f"returned {key} that is no array ({error})", where=reference) from error
    # A column of texts in a data frame.
    texts = array.dtype == object and all(isinstance(one, str) for one in array.flat)
    return array.astype(str) if texts else array
