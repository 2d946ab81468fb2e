"""From what a reader found to a task: checked against the model, split, free of overlap, scored by a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.results import TaskSummary, TensorSpec
from compressor.task.array_task import ArrayTask
from compressor.task.base import Examples
from compressor.task.fit import check_input, first_not_finite, fitted
from compressor.task.metrics import AGREEMENT, Metric, default_metric, metric
from compressor.task.parts import PartName, Parts, array_name, target_name
from compressor.task.splits import draw, row_digests
from compressor.task.views import Scoring

LEAST = 2
"""Fewest examples to calibrate on, and fewest to score."""

_ONE_IN = 5  # so many examples without a split give one to calibration

Array = NDArray[np.generic]
Rows = NDArray[np.int64] | None
Found = Mapping[PartName, Examples]


@dataclass(frozen=True)
class Needs:
    """What the task must serve.

    Attributes:
        metric: Name of the metric, or ``None`` for the default.
        inputs: The model's inputs, if known.
        outputs: The model's outputs, if known.
        seed: Of every draw.
        calibration_limit: Most examples to calibrate on.
        test_limit: Most examples to score; ``None`` for all.
        scoring: What of a transformer's output is scored; ``None`` for the output as it is.
    """

    metric: str | None
    inputs: tuple[TensorSpec, ...] | None
    outputs: tuple[TensorSpec, ...] | None
    seed: int
    calibration_limit: int
    test_limit: int | None
    scoring: Scoring | None = None


@dataclass(frozen=True)
class _Pick:
    """Some rows of a part; ``None`` stands for all of them."""

    examples: Examples
    rows: Rows = None

    def labels(self) -> Array | None:
        """Class labels of these rows, where the targets are such."""
        y = self.examples.targets
        if y is None or y.dtype.kind not in "iu" or y.ndim != 1:
            return None
        return y if self.rows is None else y[self.rows]

    def __len__(self) -> int:
        return len(self.examples) if self.rows is None else len(self.rows)

    def within(self, rows: NDArray[np.int64]) -> _Pick:
        """The given ones of these rows."""
        return _Pick(self.examples, rows if self.rows is None else self.rows[rows])


def prepare(parts: Parts, needs: Needs, where: str) -> ArrayTask:
    """Make a task of the parts of a data set.

    Data without a split are shuffled by the seed: one example in five, at most ``calibration_limit``, calibrates, the
    rest is scored. With a split, calibration is drawn from the calibration part, else from the training part. Rows of
    either that are byte-equal to a test row are taken out.

    Args:
        parts: What was read.
        needs: The model's signature, the metric and the limits.
        where: The data, for messages.

    Raises:
        DataError: The data do not fit the model or the metric, or too few examples are left.
    """
    notes = list(parts.notes)
    if needs.outputs is not None and len(needs.outputs) > 1:
        notes.append(f"the first of the model's {len(needs.outputs)} outputs is scored")
    for part, some in parts.examples.items():
        _check_part(part, some, needs.inputs, where)
    _check_same_dtypes(parts.examples, needs.inputs, where)
    found, scored, class_names = _with_metric(parts, needs, where, notes)
    calibration, test, training = (_split if "all" in found else _official)(found, needs, where, notes)
    if needs.test_limit is not None and needs.test_limit < len(test):
        whole = len(test)
        test = test.within(draw(needs.test_limit, whole, test.labels(), needs.seed)[0])
        notes.append(f"scored on {len(test)} of {whole} test examples, as asked")
    made = [_take(pick, needs.inputs, notes) for pick in (calibration, test)]
    made_training = None if training is None else _take(training, needs.inputs, notes)
    if scored.needs == "reference":
        made[1] = replace(made[1], targets=None)
    return ArrayTask(
        TaskSummary(parts.name, scored.name, False, len(made[0]), len(made[1])),
        scored,
        made[0],
        made_training,
        made[1],
        tuple(dict.fromkeys(notes)),
        needs.scoring,
        class_names,
        parts.columns,
    )


# --- checks --------------------------------------------------------------------------------------------------------


def _check_part(part: PartName, some: Examples, inputs: tuple[TensorSpec, ...] | None, where: str) -> None:
    if inputs is not None and len(some.inputs) != len(inputs):
        names = ", ".join(spec.name for spec in inputs)
        raise DataError(
            f"has {len(some.inputs)} input{'s' if len(some.inputs) > 1 else ''}, but the model takes {names}",
            where=where,
            mend="save one array per input in a .npz file, under these names",
        )
    for i, x in enumerate(some.inputs):
        check_input(array_name(part, inputs, i), x, None if inputs is None else inputs[i], where)
    lengths = {array_name(part, inputs, i): len(x) for i, x in enumerate(some.inputs)}
    y = some.targets
    if y is not None:
        if y.ndim == 0:
            raise DataError(f"{target_name(part)} is a single number, not one target per example", where=where)
        if y.dtype.kind not in "biufUS":
            raise DataError(f"{target_name(part)} is {y.dtype}, neither numbers nor text", where=where)
        lengths[target_name(part)] = len(y)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {length} rows" for name, length in lengths.items())
        raise DataError(f"one row per example is needed, and {counts}", where=where)
    if y is not None and (row := first_not_finite(y)) is not None:
        raise DataError(f"{target_name(part)} holds NaN or infinity, first in row {row} (counted from 0)", where=where)
    least = 2 * LEAST if part == "all" else LEAST
    if len(some) < least:
        use = "to calibrate on and to score" if part == "all" else f"in the {part} part"
        raise DataError(f"has {_count(len(some))}; at least {least} are needed {use}", where=where)


def _count(examples: int) -> str:
    return "1 example" if examples == 1 else f"{examples} examples"


def _check_same_dtypes(found: Found, inputs: tuple[TensorSpec, ...] | None, where: str) -> None:
    (first, reference), *others = found.items()
    for part, some in others:
        for i, (a, b) in enumerate(zip(reference.inputs, some.inputs, strict=True)):
            names = array_name(first, inputs, i), array_name(part, inputs, i)
            if a.dtype != b.dtype:
                raise DataError(f"{names[0]} is {a.dtype} and {names[1]} is {b.dtype}", where=where)
            if inputs is None and a.ndim != b.ndim:
                raise DataError(f"{names[0]} has shape {a.shape} and {names[1]} has shape {b.shape}", where=where)


# --- targets and metric --------------------------------------------------------------------------------------------


def _with_metric(parts: Parts, needs: Needs, where: str, notes: list[str]) -> tuple[Found, Metric, tuple[str, ...]]:
    given = {part: some.targets for part, some in parts.examples.items() if some.targets is not None}
    targets, words = _as_numbers(given, notes)
    any_targets = next(iter(targets.values()), None)
    scored = _metric(needs, any_targets)
    if scored.needs == "reference":
        notes.append("scored by agreement with the original model's outputs, not by accuracy")
    elif any_targets is None:
        raise DataError(
            f"has no targets, and {scored.name} needs them",
            where=where,
            mend="add them, or leave the metric out to score agreement with the original model",
        )
    else:
        if scored.needs == "numbers" and words:
            raise DataError(
                "compares numbers, and the targets are text", where=scored.name, mend="score with accuracy or f1"
            )
        for y in targets.values():
            if needs.metric is None and _one_hot(y):
                raise DataError(
                    "its targets are one-hot rows",
                    where=where,
                    mend="give class numbers, y.argmax(1), or name the metric if they are numbers",
                )
            scored.check(y, None if not needs.outputs else needs.outputs[0])
        if scored.needs == "numbers":
            targets = {part: y.astype(np.float32) if y.dtype.kind in "iu" else y for part, y in targets.items()}
    found = {part: replace(some, targets=targets.get(part)) for part, some in parts.examples.items()}
    return found, scored, words or parts.class_names


def _one_hot(y: Array) -> bool:
    """Whether numbers look like classes, of which an average error would say nothing."""
    return y.ndim == 2 and y.dtype.kind == "f" and bool(np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())


def _metric(needs: Needs, targets: Array | None) -> Metric:
    if needs.scoring is not None and (needs.metric == AGREEMENT or (needs.metric is None and targets is None)):
        return needs.scoring.agreement
    if needs.metric is None and needs.scoring is not None:
        return metric(needs.scoring.metric)
    return default_metric(targets) if needs.metric is None else metric(needs.metric)


def _as_numbers(given: Mapping[PartName, Array], notes: list[str]) -> tuple[dict[PartName, Array], tuple[str, ...]]:
    """Whole numbers to int64, a single column to ``(N,)``, text to class numbers in sorted order over all parts.

    Returns:
        The targets, and the texts by their numbers, if they were such.
    """
    flat: dict[PartName, Array] = {p: y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for p, y in given.items()}
    classes: Array = np.empty(0)
    if any(y.dtype.kind in "US" for y in flat.values()):
        # A number that stands among text labels elsewhere is a label like them.
        words = {part: _words(y) for part, y in flat.items()}
        classes = np.unique(np.concatenate([y.ravel() for y in words.values()]))
        shown = ", ".join(f"{i}={name}" for i, name in enumerate(classes[:20]))
        notes.append(f"text labels numbered in sorted order: {shown}{', …' if len(classes) > 20 else ''}")
        flat = {part: np.searchsorted(classes, y) for part, y in words.items()}
    return (
        {part: y.astype(np.int64, copy=False) if y.dtype.kind in "biu" else y for part, y in flat.items()},
        tuple(map(str, classes)),
    )


def _words(y: Array) -> NDArray[np.str_]:
    return np.char.decode(y.astype(np.bytes_), "utf-8", "replace") if y.dtype.kind == "S" else y.astype(np.str_)


# --- splits --------------------------------------------------------------------------------------------------------


def _split(found: Found, needs: Needs, where: str, notes: list[str]) -> tuple[_Pick, _Pick, None]:
    whole = _Pick(found["all"])
    labels, total = whole.labels(), len(whole)
    count = max(LEAST, min(needs.calibration_limit, total // _ONE_IN))
    rows, others, stratified = draw(count, total, labels, needs.seed)
    how = "each class in proportion" if stratified else "without regard to class" if labels is not None else "at random"
    notes.append(f"no split given: {len(rows)} examples to calibrate and {len(others)} to score, drawn {how}")
    digests = _digests(whole.examples, needs.inputs)
    shared = np.isin(digests[rows], digests[others])
    return whole.within(kept(rows, shared, "calibration", where, notes)), whole.within(others), None


def _official(found: Found, needs: Needs, where: str, notes: list[str]) -> tuple[_Pick, _Pick, _Pick | None]:
    test = _digests(found["test"], needs.inputs)
    picks: dict[PartName, _Pick] = {}
    for part, pool in found.items():
        if part != "test":
            what = "training" if part == "train" else part
            shared = np.isin(_digests(pool, needs.inputs), test)
            rows = kept(np.arange(len(pool)), shared, what, where, notes)
            picks[part] = _Pick(pool, rows if len(rows) < len(pool) else None)
    source = picks["calibration" if "calibration" in picks else "train"]
    if len(source) > needs.calibration_limit:
        source = source.within(draw(needs.calibration_limit, len(source), source.labels(), needs.seed)[0])
    return source, _Pick(found["test"]), picks.get("train")


def _digests(some: Examples, inputs: tuple[TensorSpec, ...] | None) -> NDArray[np.uint64]:
    """Hash rows after their cast, which may make two of them equal; scaling bytes cannot, so it is left out."""
    if inputs is None:
        return row_digests(some.inputs)
    seen = [x.dtype if x.dtype == np.uint8 else np.dtype(i.dtype) for x, i in zip(some.inputs, inputs, strict=True)]
    return row_digests(some.inputs, seen)


def kept(
    rows: NDArray[np.int64], shared: NDArray[np.bool_], what: str, where: str, notes: list[str]
) -> NDArray[np.int64]:
    """Drop the rows that are also test rows, and say so.

    Args:
        rows: Numbers of examples, ``(N,)``.
        shared: Which of them are test rows too, ``(N,)``.
        what: Of which part they are, for messages.
        where: The data, for messages.
        notes: Gets a sentence if any were dropped.

    Raises:
        DataError: Too few are left.
    """
    gone, left = int(shared.sum()), int((~shared).sum())
    if left < LEAST:
        raise DataError(
            f"{gone} of {len(rows)} {what} examples are also test examples, which leaves {left}",
            where=where,
            mend=f"give at least {LEAST} {what} examples that are not scored",
        )
    if gone:
        notes.append(f"took out {gone} of {len(rows)} {what} examples whose inputs are byte-equal to a test example's")
    return rows[~shared]


def _take(pick: _Pick, inputs: tuple[TensorSpec, ...] | None, notes: list[str]) -> Examples:
    arrays = []
    for i, x in enumerate(pick.examples.inputs):
        rows = x if pick.rows is None else x[pick.rows]
        array, note = fitted(array_name("all", inputs, i), rows, None if inputs is None else inputs[i])
        arrays.append(array)
        if note is not None:
            notes.append(note)
    y, texts = pick.examples.targets, pick.examples.texts
    if pick.rows is None:
        return Examples(tuple(arrays), y, texts)
    return Examples(tuple(arrays), None if y is None else y[pick.rows], [texts[i] for i in pick.rows] if texts else ())
