"""Metrics: what a score is, which targets and outputs it fits, and its value by scikit-learn.

Class metrics take the model's raw first output: ``(N, C)`` scores are decided by arg-max; ``(N,)`` or ``(N, 1)`` by a
threshold, 0.5 where all of them lie in [0, 1] (probabilities) and 0 elsewhere (logits); whole numbers ``(N,)`` are
class numbers already.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, nearest
from compressor.results import Score, TensorSpec
from compressor.task.ranks import SPEARMAN, spearman, spearman_parts
from compressor.task.tokens import exact_rows, exact_share, right_tokens, token_accuracy
from compressor.task.user_code import is_reference, load_callable

Array = NDArray[np.generic]
Needs = Literal["labels", "numbers", "tokens", "reference", "anything"]

AGREEMENT = "agreement"
"""Name of the metric that compares with the original model's outputs; the only one that needs no targets."""

AGREEMENT_NAME = "agreement with the original"
TOKENS, EXACT = "token-accuracy", "exact-positions"
"""Names of the metrics over the tokens of a text, see :mod:`compressor.task.tokens`."""

# A quantized sigmoid may step a little past its ends; logits reach well beyond.
_PROBABILITY_SLACK = 0.01


@dataclass(frozen=True)
class Metric:
    """One way to score outputs against targets.

    Attributes:
        name: As the report shows it.
        unit: ``fraction`` (0..1), ``target`` or ``target²`` (the target's unit), or empty for a plain number.
        higher_is_better: Direction.
        needs: What the targets must be: class labels, numbers, rows of whole numbers for the tokens of a text, the
            original model's outputs, or anything.
        value: From targets and raw outputs to the score.
        per_example: From targets and raw outputs to ``(N,)`` numbers that average to ``value``; ``None`` where the
            metric is not such an average.
    """

    name: str
    unit: str
    higher_is_better: bool
    needs: Needs
    value: Callable[[Array, Array], float]
    per_example: Callable[[Array, Array], NDArray[np.float64]] | None = None

    def check(self, targets: Array, output: TensorSpec | None) -> None:
        """Refuse targets or outputs that this metric cannot compare.

        Args:
            targets: ``(N,)`` or ``(N, …)``.
            output: The model's first output, as its signature or as it came; ``None`` where not known yet.

        Raises:
            DataError: They do not fit.
        """
        if self.needs == "labels":
            _check_labels(self.name, targets, output)
        elif self.needs == "numbers":
            _check_numbers(self.name, targets, output)
        elif self.needs == "tokens":
            _check_tokens(self.name, targets, output)
        elif self.needs == "reference" and output is not None and targets.shape != output.shape:
            raise DataError(
                f"the model's output is {show_shape(output.shape)}, the original's is {show_shape(targets.shape)}",
                where=self.name,
            )

    def score(self, targets: Array, outputs: Array) -> Score:
        """Score finite outputs against targets that :meth:`check` has passed.

        Args:
            targets: ``(N,)`` or ``(N, …)``.
            outputs: The model's first output, ``(N, …)``.

        Raises:
            DataError: The test targets leave the metric undefined, or a metric of the user's failed.
        """
        # scikit-learn warns of class numbers that only the predictions hold and of many classes in few examples;
        # neither changes the value, and what would leave it undefined is refused before.
        with warnings.catch_warnings():
            if self.needs == "labels":
                warnings.simplefilter("ignore", UserWarning)
            value = self.value(targets, outputs)
        each = None if self.per_example is None else tuple(self.per_example(targets, outputs).tolist())
        return Score(self.name, value, self.unit, self.higher_is_better, each)


def metric(name_or_callable: str) -> Metric:
    """Find a metric.

    Args:
        name_or_callable: A built-in name, or ``package.module:callable`` or ``file.py:callable``. The callable gets
            the targets and the model's raw outputs, both arrays, and returns one number; set its attribute
            ``higher_is_better = False`` where a smaller number is better.

    Raises:
        DataError: No such metric or callable.
    """
    if is_reference(name_or_callable):
        return _from_user(name_or_callable)
    known = _metrics()
    if name_or_callable not in known:
        raise DataError(f"there is no metric '{name_or_callable}'", mend=nearest(name_or_callable, known))
    return known[name_or_callable]


def default_metric(targets: Array | None) -> Metric:
    """Choose: whole numbers → ``accuracy``, other numbers → ``mse``, no targets → ``agreement``."""
    if targets is None:
        return metric(AGREEMENT)
    return metric("accuracy" if targets.dtype.kind in "iub" else "mse")


def show_shape(shape: tuple[int | None, ...]) -> str:
    """Write a shape with ``N`` for the axis of the examples and ``?`` for a free axis: ``(N, 1, 28, ?)``."""
    rest = ["?" if size is None else str(size) for size in shape[1:]]
    return f"({', '.join(['N', *rest])}{'' if rest else ','})"


def _metrics() -> dict[str, Metric]:
    from sklearn import metrics

    def of_classes(name: str, function: Callable[..., Any], **options: Any) -> Metric:
        def value(targets: Array, outputs: Array) -> float:
            return float(function(targets, decided(outputs), **options))

        return Metric(name, "fraction", True, "labels", value, _right if name == "accuracy" else None)

    def of_numbers(name: str, unit: str, function: Callable[..., Any], each: _Each | None) -> Metric:
        def value(targets: Array, outputs: Array) -> float:
            return float(function(_rows(targets), _rows(outputs)))

        return Metric(name, unit, False, "numbers", value, each)

    macro: dict[str, Any] = {"average": "macro", "zero_division": 0}
    found = (
        of_classes("accuracy", metrics.accuracy_score),
        of_classes("balanced-accuracy", metrics.balanced_accuracy_score),
        of_classes("f1", metrics.f1_score, **macro),
        of_classes("precision", metrics.precision_score, **macro),
        of_classes("recall", metrics.recall_score, **macro),
        Metric("auc", "fraction", True, "labels", _auc),
        Metric("top5", "fraction", True, "labels", _top5, _in_top5),
        of_numbers("mse", "target²", metrics.mean_squared_error, _squared),
        of_numbers("mae", "target", metrics.mean_absolute_error, _absolute),
        of_numbers("rmse", "target", metrics.root_mean_squared_error, None),
        Metric("r2", "", True, "numbers", _r2),
        Metric(SPEARMAN, "", True, "numbers", spearman, spearman_parts),
        Metric(TOKENS, "fraction", True, "tokens", token_accuracy, right_tokens),
        Metric(EXACT, "fraction", True, "tokens", exact_share, exact_rows),
        Metric(AGREEMENT_NAME, "fraction", True, "reference", _agreement, _agrees),
    )
    return {AGREEMENT if m.needs == "reference" else m.name: m for m in found}


_Each = Callable[[Array, Array], NDArray[np.float64]]


# --- class labels --------------------------------------------------------------------------------------------------


def _check_labels(name: str, targets: Array, output: TensorSpec | None) -> None:
    if targets.dtype.kind not in "iub":
        raise DataError(
            f"needs class labels (whole numbers or text), and the targets are {targets.dtype}",
            where=name,
            mend="store class numbers as integers, or score with mse, mae, rmse or r2",
        )
    if targets.ndim != 1:
        raise DataError(
            f"needs one class label per example, and the targets are {show_shape(targets.shape)}",
            where=name,
            mend="give class numbers (N,), not one-hot rows",
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0:
        raise DataError(f"labels go down to {low}", where=name, mend="number the classes from 0")
    if output is None:
        return
    shape = output.shape
    numbers = np.dtype(output.dtype).kind in "iub" and len(shape) == 1
    if name in ("auc", "top5") and numbers:
        raise DataError(f"needs a score per class, and the model gives class numbers ({output.dtype})", where=name)
    if numbers:
        return
    if len(shape) not in (1, 2):
        raise DataError(
            f"needs one score per class, (N, C), and the model's output is {show_shape(shape)}",
            where=name,
            mend="score it with a metric of your own: --metric file.py:callable",
        )
    columns = 1 if len(shape) == 1 else shape[1]
    if columns is None:
        return
    if name == "top5" and columns <= 5:
        raise DataError(f"needs more than 5 classes, and the model has {_outputs(columns)}", where=name)
    if high >= max(columns, 2):
        raise DataError(
            f"labels go up to {high} but the model has {_outputs(columns)}",
            where=name,
            mend="number the classes from 0, or check that the data belong to this model",
        )


def _check_tokens(name: str, targets: Array, output: TensorSpec | None) -> None:
    if targets.dtype.kind not in "iu" or targets.ndim != 2:
        raise DataError(
            f"needs whole numbers (N, length), and the targets are {targets.dtype} {show_shape(targets.shape)}",
            where=name,
        )
    if output is not None and (np.dtype(output.dtype).kind not in "iu" or output.shape != targets.shape):
        raise DataError(
            f"the targets are {show_shape(targets.shape)}, and the model gives {output.dtype} "
            f"{show_shape(output.shape)}",
            where=name,
            mend="it scores token classification, masked and causal language models, and question answering",
        )


def _outputs(columns: int) -> str:
    return "1 output" if columns == 1 else f"{columns} outputs"


def decided(outputs: Array) -> NDArray[np.int64]:
    """Class numbers ``(N,)`` of a model's first output, by the rule above; ``(N, C)``, ``(N, 1)`` or ``(N,)``."""
    if outputs.ndim == 2 and outputs.shape[1] >= 2:
        return outputs.argmax(axis=1)
    if outputs.ndim == 1 and outputs.dtype.kind in "iub":
        return outputs.astype(np.int64)
    one = outputs.reshape(len(outputs)).astype(np.float64)
    probabilities = one.min() >= -_PROBABILITY_SLACK and one.max() <= 1 + _PROBABILITY_SLACK
    return (one > (0.5 if probabilities else 0.0)).astype(np.int64)


def _right(targets: Array, outputs: Array) -> NDArray[np.float64]:
    return (decided(outputs) == targets).astype(np.float64)


def _top5(targets: Array, outputs: Array) -> float:
    from sklearn.metrics import top_k_accuracy_score

    return float(top_k_accuracy_score(targets, outputs, k=5, labels=np.arange(outputs.shape[1])))


def _in_top5(targets: Array, outputs: Array) -> NDArray[np.float64]:
    # A stable sort read backwards: ties fall as in scikit-learn's top_k_accuracy_score.
    best = np.argsort(outputs, axis=1, kind="stable")[:, ::-1][:, :5]
    return (best == targets[:, None]).any(axis=1).astype(np.float64)


def _auc(targets: Array, outputs: Array) -> float:
    """Area under the ROC curve; with more than two classes the plain mean of one-against-the-rest."""
    from sklearn.metrics import roc_auc_score

    present = np.unique(targets)
    if len(present) < 2:
        raise DataError(
            f"needs at least two classes among the test labels, and all of them are {present[0]}", where="auc"
        )
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return float(roc_auc_score(targets, outputs.reshape(len(outputs))))
    scores = outputs.astype(np.float64)
    if scores.shape[1] == 2:
        # Grows with the second class's probability whether the two columns are logits or probabilities.
        return float(roc_auc_score(targets, scores[:, 1] - scores[:, 0]))
    if missing := sorted(set(range(scores.shape[1])) - set(present.tolist())):
        raise DataError(
            f"needs every class among the test labels; missing: {', '.join(map(str, missing))}",
            where="auc",
            mend="score with accuracy or f1, or give more test examples",
        )
    if scores.min() < 0 or not np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return float(roc_auc_score(targets, scores, multi_class="ovr", average="macro"))


# --- numbers -------------------------------------------------------------------------------------------------------


def _check_numbers(name: str, targets: Array, output: TensorSpec | None) -> None:
    if targets.dtype.kind not in "iubf":
        raise DataError(f"needs numbers, and the targets are {targets.dtype}", where=name)
    if name == SPEARMAN and targets.size != len(targets):
        raise DataError(f"needs one number per example, and the targets are {show_shape(targets.shape)}", where=name)
    if output is None or None in output.shape[1:]:
        return
    wanted, given = ([size for size in shape[1:] if size != 1] for shape in (targets.shape, output.shape))
    if wanted == given:
        return
    if targets.dtype.kind in "iub" and targets.ndim == 1:
        raise DataError(
            f"compares numbers, and the targets are class labels for a model with output {show_shape(output.shape)}",
            where=name,
            mend="score with accuracy, balanced-accuracy, f1, precision, recall, auc or top5",
        )
    raise DataError(
        f"the model's output is {show_shape(output.shape)}, the targets are {show_shape(targets.shape)}",
        where=name,
        mend="if they are class numbers, store them as integers" if targets.ndim == 1 else None,
    )


def _rows(values: Array) -> NDArray[np.float64]:
    return values.reshape(len(values), -1).astype(np.float64)


def _squared(targets: Array, outputs: Array) -> NDArray[np.float64]:
    return np.square(_rows(targets) - _rows(outputs)).mean(axis=1)


def _absolute(targets: Array, outputs: Array) -> NDArray[np.float64]:
    return np.abs(_rows(targets) - _rows(outputs)).mean(axis=1)


def _r2(targets: Array, outputs: Array) -> float:
    from sklearn.metrics import r2_score

    rows = _rows(targets)
    if (rows == rows[0]).all(axis=0).any():
        raise DataError("is not defined for test targets that are all the same", where="r2", mend="score with mse")
    return float(r2_score(rows, _rows(outputs)))


# --- the original's outputs ----------------------------------------------------------------------------------------


def _agrees(original: Array, outputs: Array) -> NDArray[np.float64]:
    r"""Agreement of each example with the original model's output ``r_i``.

    Where outputs are class scores, ``(N, C)`` with C of at least 2: 1 for the same arg-max, else 0. Where they are
    whole numbers: 1 for the same numbers, else 0. Elsewhere ``1 - |y_i - r_i| / sqrt(mean_j |r_j|^2)`` with Euclidean
    norms over an example's elements: 1 is identical, and the common denominator keeps a small ``r_i`` from
    deciding everything.
    """
    if original.ndim == 2 and original.shape[1] >= 2 and original.dtype.kind == "f":
        return (original.argmax(axis=1) == outputs.argmax(axis=1)).astype(np.float64)
    if original.dtype.kind in "iub":
        return (original == outputs).reshape(len(original), -1).all(axis=1).astype(np.float64)
    size = math.sqrt(float(np.square(_rows(original)).sum(axis=1).mean()))
    if size == 0:
        raise DataError("the original's outputs are all 0: nothing to agree with", where=AGREEMENT)
    return 1 - np.linalg.norm(_rows(outputs) - _rows(original), axis=1) / size


def _agreement(original: Array, outputs: Array) -> float:
    return float(_agrees(original, outputs).mean())


# --- the user's own ------------------------------------------------------------------------------------------------


def _from_user(reference: str) -> Metric:
    function = load_callable(reference)

    def value(targets: Array, outputs: Array) -> float:
        try:
            given = function(targets, outputs)
        except Exception as error:
            raise DataError(
                f"raised {type(error).__name__}: {error}",
                where=reference,
                mend="it is given the targets and the model's raw outputs",
            ) from error
        if not isinstance(given, (int, float, np.number)) or not math.isfinite(given):
            raise DataError(f"returned {given!r}, not a finite number", where=reference)
        return float(given)

    return Metric(reference, "", bool(getattr(function, "higher_is_better", True)), "anything", value)
