"""Targets that lie on the tokens: a word's tag, an answer's two ends, a masked word, the next word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.task.base import Examples
from compressor.task.labels import class_names
from compressor.task.records import Records
from compressor.task.text import TAGS, WORDS, Reading, Tokenizer, column, needed, numbered, text_columns, texts_of
from compressor.task.tokens import IGNORED

MASKED_SHARE = 0.15
"""Of the tokens, as BERT was trained (Devlin et al. 2019, section 3.1); all of them are replaced by the mask."""

Array = NDArray[np.generic]


def tagged(records: Records, reading: Reading, tokenizer: Tokenizer, where: str, notes: list[str]) -> Examples:
    """A class per word; a word's first piece bears it, its others are not scored."""
    words_name = needed(records, reading.text[0] if reading.text else None, WORDS, "words", where, "--text")
    words = _lists(records[words_name], f"{where}, column {words_name}")
    inputs, made = tokenizer.read(words, is_split_into_words=True)
    tags_name = column(records, reading.target, TAGS, where)
    if tags_name is None:
        return Examples(inputs, None)
    tags = _lists(records[tags_name], f"{where}, column {tags_name}")
    for row, (some, theirs) in enumerate(zip(words, tags, strict=True)):
        if len(some) != len(theirs):
            raise DataError(f"row {row} (counted from 0) has {len(some)} words and {len(theirs)} tags", where=where)
    flat = numbered([tag for row in tags for tag in row], reading.folder, f"{where}, column {tags_name}", notes)
    names = class_names(reading.folder)
    if flat.dtype.kind not in "iu":
        raise DataError(f"its tags are none of the model's: {', '.join(names)}", where=f"{where}, column {tags_name}")
    beyond = np.setdiff1d(flat, [IGNORED, *range(len(names))])
    if len(beyond):
        raise DataError(
            f"holds tag {beyond[0]}, and the model has {len(names)}, from 0", where=f"{where}, column {tags_name}"
        )
    targets = np.full((len(words), tokenizer.length), IGNORED, np.int64)
    ends = np.cumsum([len(row) for row in tags])
    for row in range(len(words)):
        own = flat[ends[row] - len(tags[row]) : ends[row]]
        before = None
        for position, word in enumerate(_word_ids(made, row, reading)):
            if word is not None and word != before:
                targets[row, position] = own[word]
            before = word
    notes.append(f"words read from {words_name}, tags from {tags_name}")
    return Examples(inputs, targets, [" ".join(map(str, row)) for row in words])


def answers(records: Records, reading: Reading, tokenizer: Tokenizer, where: str, notes: list[str]) -> Examples:
    """First and last token of the answer in the context, given as in SQuAD."""
    question, context = reading.text if reading.text and len(reading.text) == 2 else ("question", "context")
    for name in (question, context):
        needed(records, name, (name,), name, where, "--text QUESTION,CONTEXT")
    questions, contexts = texts_of(records, question, where), texts_of(records, context, where)
    spans = _spans(records, reading, contexts, where)
    inputs, made = tokenizer.read(questions, contexts, return_offsets_mapping=True)
    if spans is None:
        notes.append(f"questions read from {question}, contexts from {context}; no answers")
        return Examples(inputs, None)
    found = [_token_span(made, row, *span) for row, span in enumerate(spans)]
    kept = np.array([row for row, span in enumerate(found) if span is not None], np.int64)
    if len(kept) < len(found):
        notes.append(f"left out {len(found) - len(kept)} of {len(found)} questions whose answer is cut off")
    targets = np.array([span for span in found if span is not None], np.int64).reshape(-1, 2)
    return Examples(tuple(x[kept] for x in inputs), targets)


def masked(records: Records, reading: Reading, tokenizer: Tokenizer, where: str, notes: list[str]) -> Examples:
    """The words that were replaced by the mask, drawn the same way every time."""
    names = text_columns(records, reading, where)
    inputs, made = tokenizer.read(*(texts_of(records, name, where) for name in names), return_special_tokens_mask=True)
    mask = tokenizer.hf.mask_token_id
    if mask is None:
        raise DataError("its tokenizer has no mask token", where=reading.folder)
    at = next(i for i, spec in enumerate(tokenizer.inputs) if spec.name == "input_ids")
    ids = inputs[at].copy()
    allowed = np.asarray(made["special_tokens_mask"]) == 0
    chance = np.random.default_rng(0).random(ids.shape)
    chosen = allowed & (chance < MASKED_SHARE)
    # At least one per text, so that every text says something.
    first = np.where(allowed, chance, 2).argmin(axis=1)
    some = allowed.any(axis=1)
    chosen[np.flatnonzero(some), first[some]] = True
    targets = np.where(chosen, ids, IGNORED).astype(np.int64)
    ids[chosen] = mask
    notes.append(f"text read from {' and '.join(names)}, {MASKED_SHARE:.0%} of its tokens masked")
    return Examples(tuple(ids if i == at else x for i, x in enumerate(inputs)), targets)


def following(records: Records, reading: Reading, tokenizer: Tokenizer, where: str, notes: list[str]) -> Examples:
    """The next token at every position."""
    names = text_columns(records, reading, where)
    inputs, made = tokenizer.read(*(texts_of(records, name, where) for name in names))
    ids, mask = np.asarray(made["input_ids"]), np.asarray(made["attention_mask"])
    targets = np.full(ids.shape, IGNORED, np.int64)
    targets[:, :-1] = np.where((mask[:, 1:] != 0) & (mask[:, :-1] != 0), ids[:, 1:], IGNORED)
    notes.append(f"text read from {' and '.join(names)}, scored on each next token")
    return Examples(inputs, targets)


def _lists(values: Sequence[Any], where: str) -> list[list[Any]]:
    """Lists as they are; a text, as in a CSV file, by its spaces."""
    for row, value in enumerate(values):
        if not isinstance(value, str | list | tuple):
            raise DataError(f"holds a {type(value).__name__} in row {row} (counted from 0), not a list", where=where)
    return [value.split() if isinstance(value, str) else list(value) for value in values]


def _word_ids(made: Any, row: int, reading: Reading) -> list[int | None]:
    if not made.is_fast:
        raise DataError(
            "its tokenizer cannot say which word a token belongs to",
            where=reading.folder,
            mend="save a fast one there (tokenizer.json)",
        )
    found: list[int | None] = made.word_ids(row)
    return found


def _spans(records: Records, reading: Reading, contexts: Sequence[str], where: str) -> list[tuple[int, int]] | None:
    """First and last character of each answer (the end exclusive)."""
    if "answers" in records and reading.target in (None, "answers"):
        found = [_first_answer(value, where, row) for row, value in enumerate(records["answers"])]
    elif "answer_start" in records and (name := reading.target or "answer") in records:
        starts = numbered(records["answer_start"], reading.folder, f"{where}, column answer_start", [])
        found = [(str(text), int(start)) for text, start in zip(records[name], starts, strict=True)]
    else:
        return None
    for row, (text, start) in enumerate(found):
        if contexts[row][start : start + len(text)] != text:
            raise DataError(
                f"the answer in row {row} (counted from 0) does not stand at character {start} of its context",
                where=where,
            )
    return [(start, start + len(text)) for text, start in found]


def _first_answer(value: Any, where: str, row: int) -> tuple[str, int]:
    try:
        if isinstance(value, dict):
            return str(value["text"][0]), int(value["answer_start"][0])
        return str(value[0]["text"]), int(value[0]["answer_start"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"row {row} (counted from 0) holds no answer with text and answer_start",
            where=where,
            mend="leave out questions without an answer",
        ) from error


def _token_span(made: Any, row: int, start: int, end: int) -> tuple[int, int] | None:
    """The tokens of the context that hold the first and the last character; ``None`` where one was cut off."""
    inside = [i for i, part in enumerate(made.sequence_ids(row)) if part == 1]
    offsets = made["offset_mapping"][row]
    first = next((i for i in inside if offsets[i][0] <= start < offsets[i][1]), None)
    last = next((i for i in inside if offsets[i][0] < end <= offsets[i][1]), None)
    return None if first is None or last is None else (first, last)
