"""Which answers changed between the baseline and the result, on the test examples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.confusion import confusion
from compressor.results import Artifact, Confusion
from compressor.task.base import Examples, Task, predict_all
from compressor.task.metrics import TOKENS
from compressor.task.tokens import IGNORED
from compressor.task.views import viewed

_BATCH = 256
_AROUND, _TEXT = 8, 200
"""Words on either side of one that changed its class; characters of them all."""


def moved(folder: Path, artifacts: Mapping[str, Artifact], task: Task) -> Confusion | None:
    """Run two models on the test examples and compare their answers.

    Args:
        folder: The run's folder; the artifacts' paths are relative to it.
        artifacts: The baseline and the result, by the names of their arms.
        task: The data. Its ``class_names``, a table's ``columns`` and the texts of its examples are shown if it has
            them.

    Returns:
        What moved, word by word where words have classes; ``None`` where the task is no classification.
    """
    from compressor.runtimes.registry import open_session

    examples, names = task.test(), getattr(task, "class_names", ())
    targets = examples.targets
    if targets is None or not np.issubdtype(targets.dtype, np.integer):
        return None
    by_word = targets.ndim == 2 and task.summary.metric == TOKENS and bool(names)
    if targets.ndim != 1 and not by_word:
        return None
    scoring = getattr(task, "scoring", None)
    baseline, candidate = artifacts
    before, after = (
        np.asarray(
            predict_all(
                viewed(open_session(folder / artifact.path, threads=os.cpu_count() or 1).predict, scoring),
                examples.inputs,
                _BATCH,
            )
        )
        for artifact in artifacts.values()
    )
    if not by_word:
        columns = getattr(task, "columns", ())
        return confusion(baseline, candidate, before, after, examples, class_names=names, columns=columns)
    at = rows, _ = np.nonzero(targets != IGNORED)
    words = Examples((rows,), targets[at])
    found = confusion(baseline, candidate, before[at], after[at], words, class_names=names)
    if found is None:
        return None
    flips = tuple(
        replace(flip, index=int(rows[flip.index]), text=_around(examples, rows, flip.index)) for flip in found.flips
    )
    return replace(found, flips=flips, counted="words")


def _around(examples: Examples, rows: NDArray[np.int64], word: int) -> str:
    """A word in brackets among those around it; the text alone where words were cut off or are not scored."""
    if not examples.texts:
        return ""
    row = int(rows[word])
    first, end = np.searchsorted(rows, [row, row + 1])
    words = examples.texts[row].split()
    if len(words) != end - first:
        return examples.texts[row][:_TEXT]
    place = word - int(first)
    words[place] = f"[{words[place]}]"
    return " ".join(words[max(0, place - _AROUND) : place + _AROUND + 1])[:_TEXT]
