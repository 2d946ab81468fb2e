"""Losses for training: what a model's output means, and how far it is from the labels or from a teacher's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.task.metrics import show_shape

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["classes", "binary", "numbers"]

NUMERIC_METRICS = frozenset({"mse", "mae", "rmse", "r2"})
"""Metrics that take whole numbers for numbers, not for classes."""

_SMALLEST = 1e-7
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Meaning:
    """What a model's first output is.

    Attributes:
        kind: ``classes``: a score per class, ``(N, C, …)``; ``binary``: one score for the second of two classes,
            ``(N,)`` or ``(N, 1)``; ``numbers``: anything else.
        probabilities: Whether the scores are probabilities already; else they are logits.
    """

    kind: Kind
    probabilities: bool = False

    def logits(self, outputs: Tensor) -> Tensor:
        """Logits of the scores; ``binary`` ones as ``(N,)``."""
        outputs = outputs.float()
        if self.kind == "binary":
            outputs = outputs.reshape(len(outputs))
            return outputs.clamp(_SMALLEST, 1 - _SMALLEST).logit() if self.probabilities else outputs
        return outputs.clamp_min(_SMALLEST).log() if self.probabilities else outputs

    def targets(self, targets: NDArray[np.generic]) -> Tensor:
        """Labels as the loss takes them."""
        import torch

        values = np.ascontiguousarray(targets)
        return torch.from_numpy(values.astype(np.int64 if self.kind == "classes" else np.float32))

    def label_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy for classes, binary cross entropy for one score, mean squared error for numbers.

        Args:
            outputs: The model's first output, ``(N, …)``.
            targets: From :meth:`targets`, ``(N, …)``.

        Returns:
            The mean over the examples, a scalar.
        """
        from torch.nn import functional as F

        if self.kind == "classes":
            return F.cross_entropy(self.logits(outputs), targets)
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(self.logits(outputs), targets.reshape(len(targets)))
        return F.mse_loss(outputs.float().flatten(), targets.flatten())

    def teacher_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far a student is from its teacher.

        For class scores the Kullback-Leibler divergence of the softened probabilities times the temperature squared,
        which keeps its gradients as large as those of the labels (Hinton, Vinyals and Dean 2015, "Distilling the
        knowledge in a neural network", section 2); for one score the same with two classes, but for a constant; for
        numbers the mean squared error.

        Args:
            outputs: The student's first output, ``(N, …)``.
            teacher: The teacher's, of the same shape.
            temperature: What logits are divided by; above 1 the small probabilities count more.

        Returns:
            The mean over the examples, a scalar.
        """
        from torch.nn import functional as F

        if self.kind == "numbers":
            return F.mse_loss(outputs.float(), teacher.float())
        student, soft = self.logits(outputs) / temperature, self.logits(teacher) / temperature
        if self.kind == "binary":
            return temperature**2 * F.binary_cross_entropy_with_logits(student, soft.sigmoid())
        logs, wanted = student.log_softmax(1), soft.log_softmax(1)
        return temperature**2 * F.kl_div(logs, wanted, reduction="none", log_target=True).sum(1).mean()


def meaning_of(outputs: Tensor, targets: NDArray[np.generic] | None, metric: str, where: str) -> Meaning:
    """Tell from some outputs, all labels and the metric what a model's output is.

    Args:
        outputs: The model's first output on some examples, ``(n, …)``.
        targets: All labels, ``(N,)`` or ``(N, …)``; ``None`` where there are none.
        metric: The task's metric; one of numbers makes whole numbers numbers.
        where: The method, for messages.

    Returns:
        What it is.

    Raises:
        MethodError: The output cannot be trained, or the labels do not match it.
    """
    if not outputs.is_floating_point() or outputs.ndim == 0:
        kind = str(outputs.dtype).removeprefix("torch.")
        raise MethodError(
            f"the model's first output is {kind} {tuple(outputs.shape)}, which has no gradient",
            where=where,
            mend="train a model that gives scores, (N, C), or numbers",
        )
    shape = (None, *outputs.shape[1:])
    single = outputs.ndim == 1 or tuple(outputs.shape[1:]) == (1,)
    if metric in NUMERIC_METRICS or (targets is None and single) or (targets is not None and _is_float(targets)):
        if targets is not None and _elements(targets.shape) != _elements(outputs.shape):
            raise MethodError(
                f"the targets are {show_shape(targets.shape)}, the model's output is {show_shape(shape)}", where=where
            )
        return Meaning("numbers")
    low, high = float(outputs.min()), float(outputs.max())
    if single:
        if targets is not None:
            _check_labels(targets, 2, "1 output", where)
            if targets.size != len(targets):
                raise MethodError(
                    f"the labels are {show_shape(targets.shape)}, the model's output is {show_shape(shape)}",
                    where=where,
                )
        return Meaning("binary", low >= 0 and high <= 1)
    if targets is not None:
        if targets.shape[1:] != tuple(outputs.shape[2:]):
            raise MethodError(
                f"the labels are {show_shape(targets.shape)}, the model's output is {show_shape(shape)}",
                where=where,
                mend="give one class number for each row of scores, (N,) for (N, C)",
            )
        _check_labels(targets, outputs.shape[1], f"{outputs.shape[1]} outputs", where)
    sums = outputs.double().sum(1)
    return Meaning("classes", low >= 0 and bool((sums - 1).abs().max() < _SUM_TOLERANCE))


def _check_labels(targets: NDArray[np.generic], classes: int, outputs: str, where: str) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0:
        raise MethodError(f"labels go down to {low}", where=where, mend="number the classes from 0")
    if high >= classes:
        raise MethodError(
            f"labels go up to {high} but the model has {outputs}",
            where=where,
            mend="number the classes from 0, or check that the data belong to this model",
        )


def _is_float(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind == "f"


def _elements(shape: tuple[int, ...]) -> int:
    """Numbers per example."""
    return int(np.prod(shape[1:], dtype=np.int64))
