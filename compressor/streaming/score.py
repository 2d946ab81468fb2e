"""The quantized checkpoint against its original on a text, where both fit in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from compressor.errors import DataError
from compressor.model.checkpoint import ITEM_BYTES, open_checkpoint
from compressor.model.hf_folder import GENERATION, screen, task_of
from compressor.results import Score, ScoreDelta
from compressor.runtimes.decoding import open_language_model
from compressor.scoring import score_delta
from compressor.task.language import TextTask, open_text

WINDOWS = 64
"""Windows of text that are scored at most."""


@dataclass(frozen=True)
class Scores:
    """What was kept.

    Attributes:
        text: What was done to the text.
        perplexity: Of the original and of the quantized model. The margin is 0, so that the verdict says whether any
            loss is established.
        agreement: Share of tokens at which both foretell the same next one.
    """

    text: str
    perplexity: ScoreDelta
    agreement: Score


def open_scoring(folder: Path, text: Path) -> TextTask:
    """Read the text, and see that the original can be run on it, before anything is quantized.

    Args:
        folder: The original.
        text: A text file.

    Raises:
        DataError: It is no causal language model, the text cannot be read, or the original in float32 does not fit in
            the memory that is free.
    """
    import psutil

    if task_of(screen(folder)) != GENERATION:
        raise DataError("is no causal language model, and text scores no other", where=folder, mend="leave out --data")
    needed = 4 * sum(tensor.size_bytes // ITEM_BYTES[tensor.dtype] for tensor in open_checkpoint(folder).values())
    free = psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"cannot be scored here: in float32 it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            where=folder,
            mend="leave out --data",
        )
    return open_text(text, folder, test_limit=WINDOWS)


def score_both(task: TextTask, original: Path, quantized: Path) -> Scores:
    """Score both models on the same text, one after the other.

    Args:
        task: The text.
        original: The checkpoint.
        quantized: What was written of it.

    Raises:
        CompressorError: One of them cannot be loaded, or does not fit the text.
    """
    first = open_language_model(original)
    task = replace(task, inputs=first.inputs)
    before = task.evaluate(first.predict)
    by_choice = task.with_original(first.predict)
    del first  # both at once would need the sum of their memory
    second = open_language_model(quantized)
    after = replace(task, inputs=second.inputs).evaluate(second.predict)
    agreement = replace(by_choice, inputs=second.inputs).evaluate(second.predict)
    return Scores("; ".join(task.notes), score_delta(before, after, 0.0), agreement)
