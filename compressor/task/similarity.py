"""Pairs of sentences with a graded similarity: the standard test of sentence embeddings.

Each sentence is embedded by itself, as in use, so an inference is one text. A model's score is Spearman's rank
correlation between the grades and the cosines of the pairs' embeddings, as in the STS tasks (Cer et al. 2017,
"SemEval-2017 Task 1: Semantic Textual Similarity") in the form that sentence-transformers reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from compressor.errors import DataError
from compressor.model.base import Arrays
from compressor.task.array_task import ArrayTask
from compressor.task.base import Examples
from compressor.task.parts import PartName, Parts
from compressor.task.prepare import LEAST, Needs, kept, prepare
from compressor.task.records import Records
from compressor.task.splits import row_digests
from compressor.task.text import TARGETS, Reading, Tokenizer, column, is_float, numbered, text_columns, texts_of
from compressor.task.views import Scoring, of_pairs

GRADES = ("score", "similarity_score", "similarity", "relatedness_score", *TARGETS)

_ALIKE = (("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("question1", "question2"), ("text", "text_pair"))
"""Pairs whose two sides are of one kind; a premise and its hypothesis, for instance, are not."""


def graded(records: Records, reading: Reading, where: str) -> tuple[str, str, str] | None:
    """The two columns of sentences and that of their grades; ``None`` where records for embeddings hold no such pairs.

    Raises:
        DataError: A column that was named is not there, or there is no text at all.
    """
    names = text_columns(records, reading, where)
    if len(names) != 2 or (reading.text is None and (names[0].lower(), names[1].lower()) not in _ALIKE):
        return None
    target = column(records, reading.target, [name for name in GRADES if name not in names], where)
    if target is None:
        return None
    words = [value for value in records[target] if isinstance(value, str) and value.strip()]
    if reading.target is None and not all(map(is_float, words)):
        return None
    return names[0], names[1], target


def open_pairs(
    found: Mapping[PartName, Records],
    columns: tuple[str, str, str],
    reading: Reading,
    scoring: Scoring,
    needs: Needs,
    name: str,
    where: str,
) -> ArrayTask:
    """Open pairs of sentences as a task.

    Args:
        found: Columns by part.
        columns: From :func:`graded`.
        reading: Tokenizer and length.
        scoring: How one text's embedding is made of the model's output.
        needs: What the task must serve; limits count pairs for the score, texts for calibration.
        name: The data as the report names them.
        where: The data, for messages.

    Returns:
        A task whose examples are single texts, the two of a test pair one behind the other; the targets of the test are
        the grades, ``(pairs,)``. What methods see has no targets: a grade is none of an embedding.

    Raises:
        DataError: A grade is missing or no number, a text is none, or there are too few pairs.
    """
    inputs = needs.inputs or ()
    tokenizer = Tokenizer(reading, inputs)
    examples = {part: _pairs(records, columns, reading, tokenizer, name) for part, records in found.items()}
    notes = [f"pairs of texts read from {columns[0]} and {columns[1]}, their similarity from {columns[2]}"]
    limit = max(LEAST, needs.calibration_limit // 2)
    twice = replace(needs, inputs=(*inputs, *inputs), scoring=of_pairs(scoring), calibration_limit=limit)
    task = prepare(Parts(examples, name, (*notes, tokenizer.note())), twice, where)
    test = task.test_examples
    more = list(task.notes)
    texts = _singly(test.inputs)
    seen = row_digests(texts)

    def apart(some: Examples, what: str) -> Examples:
        single = _singly(some.inputs)
        rows = kept(np.arange(len(single[0])), np.isin(row_digests(single), seen), what, where, more)
        return Examples(tuple(x[rows] for x in single), None)

    calibration = apart(task.calibration_examples, "calibration")
    training = None if task.training_examples is None else apart(task.training_examples, "training")
    return replace(
        task,
        summary=replace(task.summary, calibration_examples=len(calibration)),
        calibration_examples=calibration,
        training_examples=training,
        test_examples=Examples(texts, test.targets),
        notes=tuple(dict.fromkeys(more)),
        # Without grades a text is compared with the original's embedding of it.
        scoring=scoring if test.targets is None else task.scoring,
    )


def _pairs(
    records: Records, columns: tuple[str, str, str], reading: Reading, tokenizer: Tokenizer, where: str
) -> Examples:
    first, second = (tokenizer.read(texts_of(records, name, where))[0] for name in columns[:2])
    place = f"{where}, column {columns[2]}"
    grades = numbered(records[columns[2]], reading.folder, place, [])
    if grades.dtype.kind not in "biuf":
        raise DataError("holds what is no number", where=place)
    return Examples((*first, *second), grades.astype(np.float64))


def _singly(inputs: Arrays) -> Arrays:
    """From both texts of each pair side by side to one behind the other, ``(2N, length)``."""
    half = len(inputs) // 2
    pairs = zip(inputs[:half], inputs[half:], strict=True)
    return tuple(np.stack(pair, axis=1).reshape(-1, *pair[0].shape[1:]) for pair in pairs)
