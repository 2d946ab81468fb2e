"""What of a transformer's output is scored: a class per token, an answer's two ends, an embedding of the text.

A view is applied batch by batch, so that a test set's logits over a whole vocabulary are never held at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, ModelError
from compressor.model.base import Arrays
from compressor.model.hf_folder import CONFIG, read_config
from compressor.results import TensorSpec
from compressor.task.base import Predict
from compressor.task.metrics import AGREEMENT, AGREEMENT_NAME, EXACT, TOKENS, Metric, metric
from compressor.task.ranks import SPEARMAN
from compressor.task.tokens import IGNORED

_AT_ONCE = 16
"""Examples per call: 16 texts of 128 tokens over a vocabulary of 50 000 are 400 MB of logits. Even, for pairs."""

_POOLING, _MODE = "1_Pooling", "pooling_mode_"
_POOLINGS = {"mean": "mean", "mean_sqrt_len": "mean", "cls": "cls", "max": "max", "lasttoken": "lasttoken"}
"""Ways to pool, and how each is scored: by the embedding's direction, which dividing by another number keeps."""

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


def scoring_of(
    task: str, inputs: tuple[TensorSpec, ...], pooling: str = "mean", problem: str | None = None
) -> Scoring | None:
    """The scoring of an ``optimum`` task; ``None`` where the output is scored as it is.

    Args:
        task: A key of :data:`compressor.model.hf_folder.TASKS`.
        inputs: The model's inputs; the mask is found by its name.
        pooling: Of an embedding: ``mean`` or ``max`` over the tokens that are no padding, ``cls``, the first token, or
            ``lasttoken``.
        problem: What a classifier's outputs are, see :func:`compressor.model.hf_folder.problem_of`.
    """
    names = [spec.name for spec in inputs]
    mask = names.index("attention_mask") if "attention_mask" in names else None
    if task in ("token-classification", "fill-mask", "text-generation-with-past"):
        return Scoring(_tokens(mask), TOKENS, _token_agreement())
    if task == "question-answering":
        return Scoring(_ends, EXACT, metric(AGREEMENT))
    if task == "feature-extraction" and "input_ids" in names:
        return Scoring(_pooled(mask, pooling), AGREEMENT, _cosine())
    if task.endswith("-classification") and problem == "regression":
        return Scoring(lambda _, outputs: outputs, "mse", metric(AGREEMENT))
    if task.endswith("-classification") and problem == "multi_label_classification":
        return Scoring(_labels, EXACT, metric(AGREEMENT))
    return None


def pooling_of(folder: Path) -> str:
    """How sentence-transformers makes one embedding of a text's tokens.

    Returns:
        ``mean``, its default, ``cls``, ``max`` or ``lasttoken``.

    Raises:
        ModelError: In another way, or the file that says so is damaged.
    """
    if not (folder / _POOLING / CONFIG).is_file():
        return "mean"
    about = read_config(folder / _POOLING)
    # A switch per way, of which several may be on; or the ways' names.
    named = about.get("pooling_mode") or [key for key, on in about.items() if on is True and key.startswith(_MODE)]
    ways = [str(way) for way in ([named] if isinstance(named, str) else named)] or ["mean"]
    found = ways[0].removeprefix(_MODE).removesuffix("_tokens").removesuffix("_token")
    if len(ways) > 1 or found not in _POOLINGS:
        raise ModelError(
            f"pools the tokens of a text by {' and '.join(ways)}, which is not scored here",
            where=folder / _POOLING / CONFIG,
            mend=f"known: one of {', '.join(_POOLINGS)}",
        )
    return _POOLINGS[found]


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


def _labels(_: Arrays, outputs: Array) -> Array:
    """The labels that a text has: those whose logit is above 0, a probability of one half."""
    return (outputs.astype(np.float32, copy=False) > 0).astype(np.int64)


def _pooled(mask: int | None, pooling: str) -> View:
    def view(inputs: Arrays, outputs: Array) -> Array:
        if outputs.ndim != 3:
            return outputs
        if pooling == "cls":
            return outputs[:, 0]
        hidden = outputs.astype(np.float32, copy=False)
        weights = np.ones(hidden.shape[:2], np.float32) if mask is None else inputs[mask].astype(np.float32)
        if pooling == "lasttoken":
            # Padding may be on either side.
            last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(axis=1)
            return np.asarray(hidden[np.arange(len(hidden)), last])
        weights = weights[:, :, None]
        if pooling == "max":
            return np.asarray(np.where(weights > 0, hidden, -np.inf).max(axis=1))
        return np.asarray((hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1))

    return view


def _token_agreement() -> Metric:
    by_token = metric(TOKENS)
    return Metric(f"{AGREEMENT_NAME}, by token", "fraction", True, "reference", by_token.value, by_token.per_example)


def of_pairs(scoring: Scoring) -> Scoring:
    """The scoring of texts that come in pairs, one text behind the other: the cosine of their embeddings, ``(N,)``."""

    def view(inputs: Arrays, outputs: Array) -> Array:
        embeddings = scoring.view(inputs, outputs)
        return _cosines(embeddings[0::2], embeddings[1::2])

    return Scoring(view, SPEARMAN, scoring.agreement)


def _cosine() -> Metric:
    """Cosine between a text's embedding and the original model's; 1 is the same direction."""

    def value(original: Array, outputs: Array) -> float:
        return float(_cosines(original, outputs).mean())

    return Metric("cosine with the original's embedding", "", True, "reference", value, _cosines)


def _cosines(one: Array, other: Array) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not sizes.all():
        raise DataError("an embedding is all 0, which has no direction", where="cosine")
    return np.asarray((a * b).sum(axis=1) / sizes)
