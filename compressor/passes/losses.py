"""Losses for training: what a model's output means, and how far it is from the labels or from a teacher's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.task.metrics import show_shape

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["classes", "binary", "numbers", "embeddings"]

NUMERIC_METRICS = frozenset({"mse", "mae", "rmse", "r2"})
"""Metrics that take whole numbers for numbers, not for classes."""

IGNORED = -100
"""The class number of positions that have no label, as ``torch`` and ``transformers`` have it."""

_SMALLEST = 1e-7
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Meaning:
    """What a model's answer is.

    Attributes:
        kind: ``classes``: a score per class, ``(N, C, …)``; ``binary``: scores of yes or no: one for the second of two
            classes, ``(N,)``, ``(N, 1)`` or, of every point, ``(N, 1, …)``, or one for each of several labels that an
            example may have, ``(N, C, …)``; ``embeddings``: vectors whose direction counts, ``(N, …, D)``;
            ``numbers``: anything else.
        probabilities: Whether the scores are probabilities already; else they are logits.
        last: Whether the classes are on the last axis, ``(N, …, C)``, as in what a transformer says of each token.
        outputs: How many of the model's outputs are the answer; several are stacked on axis 1.
        others: How many outputs it has beside those; nothing is learnt of them.
    """

    kind: Kind
    probabilities: bool = False
    last: bool = False
    outputs: int = 1
    others: int = 0

    def answer(self, found: Any) -> Tensor:
        """The part of what a module returned that is compared: its first output, or the first ones as one tensor.

        A tensor is the answer already.
        """
        import torch

        if isinstance(found, torch.Tensor):
            return found
        tensors = [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
        return tensors[0] if self.outputs == 1 else torch.stack(tensors[: self.outputs], 1)

    def logits(self, outputs: Tensor) -> Tensor:
        """Logits of the scores, classes on axis 1; ``binary`` ones on one axis."""
        outputs = outputs.float()
        if self.kind == "binary":
            outputs = outputs.flatten()
            return outputs.clamp(_SMALLEST, 1 - _SMALLEST).logit() if self.probabilities else outputs
        if self.last:
            outputs = outputs.movedim(-1, 1)
        return outputs.clamp_min(_SMALLEST).log() if self.probabilities else outputs

    def targets(self, targets: NDArray[np.generic]) -> Tensor:
        """Labels as the loss takes them."""
        import torch

        values = np.ascontiguousarray(targets)
        return torch.from_numpy(values.astype(np.int64 if self.kind == "classes" else np.float32))

    def label_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy for classes, binary cross entropy for yes or no, mean squared error for numbers.

        Args:
            outputs: From :meth:`answer`, ``(N, …)``.
            targets: From :meth:`targets`, ``(N, …)``; classes of -100 do not count.

        Returns:
            The mean over the examples, a scalar.
        """
        from torch.nn import functional as F

        if self.kind == "classes":
            if bool((targets == IGNORED).all()):  # the mean over nothing would be NaN
                return outputs.sum() * 0
            return F.cross_entropy(self.logits(outputs), targets, ignore_index=IGNORED)
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(self.logits(outputs), targets.flatten())
        return F.mse_loss(outputs.float().flatten(), targets.flatten())

    def teacher_loss(self, outputs: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
        """How far a student is from its teacher.

        For class scores the Kullback-Leibler divergence of the softened probabilities times the temperature squared,
        which keeps its gradients as large as those of the labels (Hinton, Vinyals and Dean 2015, "Distilling the
        knowledge in a neural network", section 2); for yes or no the same with two classes; for embeddings one minus
        the cosine (Sanh et al. 2019, "DistilBERT", section 3), of every token's and, where there are tokens, of their
        mean, which stands for a sentence (Reimers and Gurevych 2019, "Sentence-BERT", section 3); for numbers the mean
        squared error.

        Args:
            outputs: The student's answer, ``(N, …)``.
            teacher: The teacher's, of the same shape.
            temperature: What logits are divided by; above 1 the small probabilities count more.
            mask: ``(N, L)``, 0 for tokens that only fill up; used where the answer has a value per token.

        Returns:
            The mean over the examples, a scalar.
        """
        from torch.nn import functional as F

        if self.kind == "numbers":
            return F.mse_loss(outputs.float(), teacher.float())
        if self.kind == "embeddings":
            return _apart(outputs.float(), teacher.float(), mask)
        student, soft = self.logits(outputs) / temperature, self.logits(teacher) / temperature
        if self.kind == "binary":
            # Cross entropy less the teacher's own entropy.
            wanted = soft.sigmoid()
            apart = F.binary_cross_entropy_with_logits(student, wanted)
            return temperature**2 * (apart - F.binary_cross_entropy_with_logits(soft, wanted))
        logs, wanted = student.log_softmax(1), soft.log_softmax(1)
        each = F.kl_div(logs, wanted, reduction="none", log_target=True).sum(1)
        return temperature**2 * masked_mean(each, mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over examples and tokens.

    Args:
        values: ``(N, …)``.
        mask: ``(N, L)``; used if the values begin with these axes.

    Returns:
        A scalar.
    """
    if mask is None or values.shape[:2] != mask.shape:
        return values.mean()
    weights = mask.to(values.dtype).reshape(*mask.shape, *(1 for _ in values.shape[2:])).expand_as(values)
    return (values * weights).sum() / weights.sum().clamp_min(1)


def _apart(outputs: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """One minus the cosine of embeddings, ``(N, D)`` or ``(N, L, D)``."""
    from torch.nn import functional as F

    found = masked_mean(1 - F.cosine_similarity(outputs, teacher, -1), mask)
    if outputs.ndim != 3:
        return found
    if mask is None or mask.shape != outputs.shape[:2]:
        mask = outputs.new_ones(outputs.shape[:2])
    weights = mask.to(outputs.dtype)[:, :, None]
    return found + (1 - F.cosine_similarity((outputs * weights).sum(1), (teacher * weights).sum(1), -1)).mean()


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
    single = outputs.ndim == 1 or outputs.shape[1] == 1
    if metric in NUMERIC_METRICS or (targets is None and single) or (targets is not None and _is_float(targets)):
        if targets is not None and _elements(targets.shape) != _elements(outputs.shape):
            raise MethodError(
                f"the targets are {show_shape(targets.shape)}, the model's output is {show_shape(shape)}", where=where
            )
        return Meaning("numbers")
    low, high = float(outputs.min()), float(outputs.max())
    if single:
        if targets is not None:
            if _elements(targets.shape) != _elements(outputs.shape):
                raise MethodError(
                    f"the labels are {show_shape(targets.shape)}, the model's output is {show_shape(shape)}",
                    where=where,
                )
            _check_labels(targets, 2, "1 output", where)
        return Meaning("binary", low >= 0 and high <= 1)
    last = False
    if targets is not None:
        if targets.shape[1:] == outputs.shape[1:] and not np.any((targets != 0) & (targets != 1)):
            return meaning_of_labels(outputs, targets, where)
        # Classes are on axis 1 as torch's own losses have it, else on the last one, as of the tokens of a text.
        last = targets.shape[1:] != tuple(outputs.shape[2:]) and targets.shape[1:] == tuple(outputs.shape[1:-1])
        if not last and targets.shape[1:] != tuple(outputs.shape[2:]):
            raise MethodError(
                f"the labels are {show_shape(targets.shape)}, the model's output is {show_shape(shape)}",
                where=where,
                mend="give one class number for each row of scores, (N,) for (N, C), or a 0 or 1 for each score",
            )
        _check_classes(targets, outputs.shape[-1 if last else 1], where)
    sums = outputs.double().sum(-1 if last else 1)
    return Meaning("classes", low >= 0 and bool((sums - 1).abs().max() < _SUM_TOLERANCE), last)


def meaning_of_labels(outputs: Tensor, targets: NDArray[np.generic] | None, where: str) -> Meaning:
    """What the answer of a model is that gives several labels per example.

    Args:
        outputs: A score per label for some examples, ``(n, C, …)``.
        targets: 0 or 1 for every label, ``(N, C, …)``; ``None`` where there are none.
        where: The method, for messages.

    Raises:
        MethodError: The labels do not match it.
    """
    if targets is not None and (targets.shape[1:] != outputs.shape[1:] or np.any((targets != 0) & (targets != 1))):
        raise MethodError(
            f"the labels are {show_shape(targets.shape)}, the model's output is "
            f"{show_shape((None, *outputs.shape[1:]))}",
            where=where,
            mend="give a 0 or 1 for each of its labels",
        )
    return Meaning("binary", bool(outputs.min() >= 0 and outputs.max() <= 1))


def meaning_for_task(task: str, outputs: Any, targets: NDArray[np.generic] | None, where: str) -> Meaning | None:
    """What the answer of a Hugging Face model is.

    Args:
        task: ``optimum``'s name of the task.
        outputs: What the model returned for some examples.
        targets: All labels; ``None`` where there are none.
        where: The method, for messages.

    Returns:
        What it is; ``None`` for tasks whose one output says it, as with any other model.

    Raises:
        MethodError: The labels do not match it.
    """
    if task == "feature-extraction":
        if targets is not None:
            raise MethodError(
                "embeddings have no labels to be trained on", where=where, mend="set unlabeled to distill without them"
            )
        return Meaning("embeddings")
    tokens = task in ("token-classification", "fill-mask") or task.startswith("text-generation")
    if not tokens and task != "question-answering":
        return None
    meaning = Meaning("classes", last=True, outputs=1 if tokens else 2)
    scores = meaning.answer(outputs)
    if targets is not None:
        if targets.shape[1:] != tuple(scores.shape[1:-1]) or targets.dtype.kind not in "iu":
            raise MethodError(
                f"the labels are {show_shape(targets.shape)}, the model's answer is "
                f"{show_shape((None, *scores.shape[1:]))}",
                where=where,
                mend=f"give one class number for each of its rows of scores, or {IGNORED} for none",
            )
        _check_classes(targets, scores.shape[-1], where)
    return meaning


def _check_classes(targets: NDArray[np.generic], count: int, where: str) -> None:
    """Labels of examples, or of each of their points or tokens, some of which may have none."""
    if targets.ndim > 1:
        targets = targets[targets != IGNORED]
    if targets.size:
        _check_labels(targets, count, f"{count} outputs", where)


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
