"""What of a transformer's output is scored: a class per token, an answer's two ends, an embedding of the text.

A view is applied batch by batch, so that a test set's logits over a whole vocabulary are never held at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.model.base import Arrays
from compressor.results import TensorSpec
from compressor.task.base import Predict
from compressor.task.metrics import AGREEMENT, AGREEMENT_NAME, EXACT, TOKENS, Metric, metric
from compressor.task.tokens import IGNORED

_AT_ONCE = 16
"""Examples per call: 16 texts of 128 tokens over a vocabulary of 50 000 are 400 MB of logits."""

Array = NDArray[np.generic]
View = Callable[[Arrays, Array], Array]
"""From the inputs of a batch and the model's first output to what is scored, ``(batch, …)``."""


@dataclass(frozen=True)
class Scoring:
    """How a task's outputs are scored.

    Attributes:
        view: What of the output is compared with the targets.
        metric: Name of the metric where there are targets and none is named.
        agreement: What compares with the original's outputs.
    """

    view: View
    metric: str
    agreement: Metric


def viewed(predict: Predict, scoring: Scoring | None) -> Predict:
    """A model whose outputs are what the scoring wants of them."""
    if scoring is None:
        return predict
    view = scoring.view

    def seen(inputs: Arrays) -> Array:
        pieces = (tuple(x[i : i + _AT_ONCE] for x in inputs) for i in range(0, len(inputs[0]), _AT_ONCE))
        return np.concatenate([view(piece, predict(piece)) for piece in pieces])

    return seen


def scoring_of(task: str, inputs: tuple[TensorSpec, ...], pooling: str = "mean") -> Scoring | None:
    """The scoring of an ``optimum`` task; ``None`` where the output is scored as it is.

    Args:
        task: A key of :data:`compressor.model.hf_folder.TASKS`.
        inputs: The model's inputs; the mask is found by its name.
        pooling: Of an embedding: ``mean`` over the tokens that are no padding, or ``cls``, the first token.
    """
    names = [spec.name for spec in inputs]
    mask = names.index("attention_mask") if "attention_mask" in names else None
    if task in ("token-classification", "fill-mask", "text-generation-with-past"):
        return Scoring(_tokens(mask), TOKENS, _token_agreement())
    if task == "question-answering":
        return Scoring(_ends, EXACT, metric(AGREEMENT))
    if task == "feature-extraction" and "input_ids" in names:
        return Scoring(_pooled(None if pooling == "cls" else mask, pooling), AGREEMENT, _cosine())
    return None


def _tokens(mask: int | None) -> View:
    def view(inputs: Arrays, outputs: Array) -> Array:
        found = outputs.argmax(axis=-1)
        return found if mask is None else np.where(inputs[mask] != 0, found, IGNORED)

    return view


def _ends(_: Arrays, outputs: Array) -> Array:
    if outputs.ndim != 3 or outputs.shape[1] != 2:
        raise DataError(
            f"needs scores of both ends, (N, 2, length), and the model's output is {outputs.shape}", where=EXACT
        )
    return outputs.argmax(axis=-1)


def _pooled(mask: int | None, pooling: str) -> View:
    def view(inputs: Arrays, outputs: Array) -> Array:
        if outputs.ndim != 3:
            return outputs
        if mask is None:
            return outputs[:, 0] if pooling == "cls" else np.asarray(outputs.mean(axis=1))
        hidden, weights = outputs.astype(np.float32, copy=False), inputs[mask].astype(np.float32)[:, :, None]
        return np.asarray((hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1))

    return view


def _token_agreement() -> Metric:
    by_token = metric(TOKENS)
    return Metric(f"{AGREEMENT_NAME}, by token", "fraction", True, "reference", by_token.value, by_token.per_example)


def _cosine() -> Metric:
    """Cosine between a text's embedding and the original model's; 1 is the same direction."""

    def each(original: Array, outputs: Array) -> NDArray[np.float64]:
        a, b = original.astype(np.float64), outputs.astype(np.float64)
        sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        if not sizes.all():
            raise DataError("an embedding is all 0, which has no direction", where="cosine")
        return np.asarray((a * b).sum(axis=1) / sizes)

    def value(original: Array, outputs: Array) -> float:
        return float(each(original, outputs).mean())

    return Metric("cosine with the original's embedding", "", True, "reference", value, each)
