r"""Plain text as a task for causal language models: perplexity, or next-token agreement with the original.

The text becomes tokens once, without special tokens, and is cut into windows of equal length that overlap by half. A
model sees a whole window and is scored on the second half of it, so every scored token has at least half a window of
context and is scored once. The first tenth of the windows is for calibration, the rest is the test.

Perplexity is :math:`\exp(m)`, where *m* is the mean of :math:`-\ln p(t_i \mid t_{<i})` over the scored tokens (Jelinek,
Mercer, Bahl and Baker 1977). As it is no mean itself, its value per example is the linear part of it,
:math:`\exp(m)(1 + m_k - m)` for a window of mean :math:`m_k`: these average to the perplexity exactly, and their paired
differences give its interval by the delta method. Next-token agreement is the share of scored tokens at which the
most likely next token is the original's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, nearest
from compressor.model.base import Arrays
from compressor.model.hf_folder import longest, read_config
from compressor.results import Score, TaskSummary, TensorSpec
from compressor.task.base import Examples, Predict

PERPLEXITY, AGREEMENT = "perplexity", "agreement"
WINDOW = 256
"""Tokens of a window; fewer where the text or the model's own context is shorter."""

LEAST_WINDOWS = 4
PAST = "past_key_values."
Tokens = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TextTask:
    """Text, and how a causal language model is scored on it.

    Attributes:
        summary: What the report says of it.
        inputs: The model's inputs, which examples are made for; ``input_ids`` alone if empty.
        calibration_windows: ``(N, window)`` token numbers that a method may look at.
        test_windows: ``(N, window)`` token numbers that are scored, none of them scored among the former.
        scored: How many tokens at the end of each window are scored.
        original: The original's most likely next tokens, ``(N, scored)``; ``None`` until they are known, and for
            perplexity.
        notes: What was done to the text.
    """

    summary: TaskSummary
    inputs: tuple[TensorSpec, ...]
    calibration_windows: Tokens
    test_windows: Tokens
    scored: int
    original: Tokens | None = None
    notes: tuple[str, ...] = ()

    def calibration(self) -> Examples:
        """Windows that a method may look at, with the tokens that follow."""
        return self._examples(self.calibration_windows)

    def training(self) -> Examples | None:
        """Nothing: there are too few of them to train on."""
        return None

    def test(self) -> Examples:
        """Windows that are scored. Their targets are the tokens that follow, or the original's choices if known."""
        examples = self._examples(self.test_windows)
        if self.summary.metric == PERPLEXITY:
            return examples
        return replace(examples, targets=self.original)

    def evaluate(self, predict: Predict, batch: int = 256) -> Score:
        """Score a model on all test windows, one at a time: a window's logits are large.

        Args:
            predict: From the inputs to logits ``(1, window, vocabulary)``.
            batch: Not used.

        Raises:
            DataError: The output is no such, is not finite, or the original's choices are not known.
        """
        if self.summary.metric == PERPLEXITY:
            return self._perplexity(predict)
        if self.original is None:
            raise DataError("the original model's choices are not known", where=self.summary.name)
        right = (self.choices(predict) == self.original).mean(axis=1)
        return Score("next-token agreement", float(right.mean()), "fraction", True, tuple(right.tolist()))

    def choices(self, predict: Predict) -> Tokens:
        """The most likely next token at every scored place, ``(N, scored)``."""
        found = [self._logits(predict, k).argmax(axis=-1) for k in range(len(self.test_windows))]
        return np.stack(found).astype(np.int64)

    def with_original(self, predict: Predict) -> TextTask:
        """The same task, scored by agreement with this model."""
        summary = replace(self.summary, metric=AGREEMENT)
        return replace(self, summary=summary, original=self.choices(predict))

    def _perplexity(self, predict: Predict) -> Score:
        losses = np.empty(len(self.test_windows))
        for k, window in enumerate(self.test_windows):
            losses[k] = nll(self._logits(predict, k), window[-self.scored :]).mean()
        mean = float(losses.mean())
        value = math.exp(min(mean, 700.0))  # a model that is broken outright would overflow
        each = value * (1 + losses - mean)
        return Score(PERPLEXITY, value, "", False, tuple(each.tolist()))

    def _logits(self, predict: Predict, k: int) -> NDArray[np.floating[Any]]:
        """Logits that foretell the scored tokens of a window, ``(scored, vocabulary)``."""
        window = self.test_windows[k : k + 1]
        found = np.asarray(predict(model_inputs(window, self.inputs)))
        if found.ndim != 3 or found.shape[:2] != window.shape:
            raise DataError(
                f"the model's output is {found.shape} for {window.shape} tokens",
                where=self.summary.name,
                mend="text is for causal language models, whose output is (N, tokens, vocabulary)",
            )
        logits = found[0, -self.scored - 1 : -1]
        if not np.isfinite(logits).all():
            raise DataError(f"the model's output for test example {k} is NaN or infinite", where=self.summary.name)
        if (most := int(window.max())) >= logits.shape[1]:
            raise DataError(
                f"holds token {most}, and the model knows {logits.shape[1]}",
                where=self.summary.name,
                mend="the tokenizer does not belong to this model",
            )
        return np.asarray(logits, np.float32)

    def _examples(self, windows: Tokens) -> Examples:
        return Examples(model_inputs(windows, self.inputs), windows[:, -self.scored :])


def nll(logits: NDArray[np.floating[Any]], targets: Tokens) -> NDArray[np.float64]:
    """Negative log-likelihood of each token, in nats.

    Args:
        logits: ``(tokens, vocabulary)``.
        targets: ``(tokens,)``.

    Returns:
        ``log(sum(exp(logits))) - logits[target]``, ``(tokens,)``.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    picked = np.take_along_axis(shifted, targets[:, None], axis=1)[:, 0]
    return np.log(np.exp(shifted).sum(axis=1)) - picked


def model_inputs(windows: Tokens, inputs: Sequence[TensorSpec]) -> Arrays:
    """All inputs of a causal language model for whole windows: no padding, nothing in the cache yet.

    Args:
        windows: ``(N, tokens)``.
        inputs: The model's inputs; ``input_ids`` alone if empty.

    Returns:
        One array per input.

    Raises:
        DataError: An input is none of those that such models have.
    """
    if not inputs:
        return (windows,)
    return tuple(_input(windows, spec) for spec in inputs)


def _input(windows: Tokens, spec: TensorSpec) -> NDArray[np.generic]:
    count, length = windows.shape
    dtype = np.dtype(spec.dtype)
    if spec.name == "input_ids":
        return windows.astype(dtype, copy=False)
    if spec.name == "attention_mask":
        return np.ones((count, length), dtype)
    if spec.name == "position_ids":
        return np.broadcast_to(np.arange(length, dtype=dtype), (count, length)).copy()
    if spec.name.startswith(PAST):
        return np.zeros((count, *(0 if size is None else size for size in spec.shape[1:])), dtype)
    raise DataError(
        f"plain text gives no value for the model's input '{spec.name}'",
        mend="text is for causal language models; give labelled data for others",
    )


def cut(tokens: Sequence[int], window: int) -> tuple[Tokens, int]:
    """Cut tokens into windows that overlap by half.

    Args:
        tokens: The text.
        window: Tokens of a window; halved until there are at least a few windows.

    Returns:
        ``(N, window)``, and how many tokens at the end of each are scored.

    Raises:
        DataError: There are too few tokens.
    """
    found = np.asarray(tokens, np.int64)
    while window >= 4 and 1 + (len(found) - window) // (window // 2) < LEAST_WINDOWS:
        window //= 2
    if window < 4:
        raise DataError(f"has {len(found)} tokens, too few to score", mend="give a text of some hundred words")
    step = window // 2
    starts = range(0, len(found) - window + 1, step)
    return np.stack([found[start : start + window] for start in starts]), step


def open_text(
    path: Path,
    tokenizer: Path | Callable[[str], Sequence[int]],
    *,
    inputs: tuple[TensorSpec, ...] = (),
    metric: str | None = None,
    window: int = WINDOW,
    test_limit: int | None = None,
) -> TextTask:
    """Open a text file as a task.

    Args:
        path: A text file, UTF-8.
        tokenizer: Folder that holds the model's tokenizer; or what turns text into token numbers.
        inputs: The model's inputs.
        metric: ``perplexity`` (the default) or ``agreement``, which then needs :meth:`TextTask.with_original`.
        window: Tokens of a window.
        test_limit: Most windows to score; ``None`` for all.

    Raises:
        DataError: No such file, text or tokenizer, or too little text.
    """
    chosen = metric or PERPLEXITY
    if chosen not in (PERPLEXITY, AGREEMENT):
        raise DataError(f"text has no metric '{chosen}'", where=path, mend=nearest(chosen, (PERPLEXITY, AGREEMENT)))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError("there is no such file", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text ({error})", where=path) from error
    if isinstance(tokenizer, Path):
        window = min(window, longest(read_config(tokenizer)) or window)
        tokenizer = _tokenizer(tokenizer)
    tokens = tokenizer(text)
    try:
        windows, scored = cut(tokens, window)
    except DataError as error:
        raise DataError(error.what, where=path, mend=error.mend) from error
    # The window behind the calibration part overlaps it in context, never in scored tokens.
    kept = max(1, len(windows) // 10)
    calibration, test = windows[:kept], windows[kept:][:test_limit]
    summary = TaskSummary(path.name, chosen, False, len(calibration), len(test))
    note = (
        f"{len(tokens)} tokens in windows of {windows.shape[1]}; the last {scored} of each are scored, "
        f"{len(test) * scored} in all"
    )
    return TextTask(summary, inputs, calibration, test, scored, None, (note,))


def _tokenizer(folder: Path) -> Callable[[str], Sequence[int]]:
    from compressor.model.hf_load import quiet_transformers
    from compressor.task.text import load_tokenizer

    found = load_tokenizer(folder)

    def encode(text: str) -> Sequence[int]:
        with quiet_transformers():  # which would warn that the text is longer than the model's context
            ids: Sequence[int] = found(text, add_special_tokens=False)["input_ids"]
        return ids

    return encode
