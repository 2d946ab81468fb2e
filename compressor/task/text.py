"""Text as a transformer reads it: columns of records, tokenised by the model's own tokenizer to one fixed length.

Every text is padded to the same length, so every call costs the same in every arm; that length is a setting, because
it decides what an inference costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, nearest
from compressor.model import hf_folder
from compressor.model.base import Arrays
from compressor.model.hf_load import quiet_transformers
from compressor.model.signature import one_line
from compressor.results import TensorSpec
from compressor.task.base import Examples
from compressor.task.labels import class_names, class_numbers
from compressor.task.multilabel import marked
from compressor.task.parts import PartName, Parts
from compressor.task.records import Records

MAX_LENGTH = 128
"""Tokens per text where none are named."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
)
TEXTS = ("text", "sentence", "content", "review", "document", "comment", "query", "title")
TARGETS = ("label", "labels", "target", "class", "category", "score", "y")
WORDS, TAGS = ("tokens", "words"), ("ner_tags", "tags", "labels", "pos_tags")

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Reading:
    """How texts are read for a model.

    Attributes:
        folder: The model's folder, which holds config and tokenizer.
        task: A key of :data:`compressor.model.hf_folder.TASKS`.
        text: Columns of the text, or of the two texts of a pair; found by name if ``None``.
        target: Column of the target; found by name if ``None``.
        max_length: Tokens that every text is cut or padded to, if the model takes so many.
    """

    folder: Path
    task: str
    text: tuple[str, ...] | None = None
    target: str | None = None
    max_length: int = MAX_LENGTH


def read_texts(found: Mapping[PartName, Records], reading: Reading, inputs: tuple[TensorSpec, ...], name: str) -> Parts:
    """Turn records into the model's inputs and targets.

    Args:
        found: Columns by part.
        reading: Columns, tokenizer and length.
        inputs: The model's inputs.
        name: The data as the user named them.

    Returns:
        Inputs ``(N, length)`` each, and targets by the task: class numbers ``(N,)``, classes of tokens ``(N, length)``,
        or an answer's first and last token ``(N, 2)``.

    Raises:
        DataError: No such column, a label that the model does not know, or no tokenizer.
    """
    from compressor.task import text_targets

    tokenizer = Tokenizer(reading, inputs)
    named = reading.task in ("text-classification", "token-classification")
    make = {
        "token-classification": text_targets.tagged,
        "question-answering": text_targets.answers,
        "fill-mask": text_targets.masked,
        "text-generation-with-past": text_targets.following,
    }.get(reading.task, classified)
    notes: list[str] = []
    examples = {part: make(records, reading, tokenizer, name, notes) for part, records in found.items()}
    notes.append(tokenizer.note())
    names = class_names(reading.folder) if named else ()
    return Parts(examples, name, tuple(dict.fromkeys(notes)), names)


def load_tokenizer(folder: Path) -> Any:
    """The ``transformers`` tokenizer of a model's folder; no code in it is run.

    Raises:
        DataError: There is none, or it cannot be loaded.
    """
    if not hf_folder.has_tokenizer(folder):
        raise DataError(
            "holds no tokenizer, so texts cannot be read for it",
            where=folder,
            mend="save it there with tokenizer.save_pretrained(), or give token ids as .npz",
        )
    with quiet_transformers() as transformers:
        try:
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # a missing file, a damaged one and an unknown kind have no common base
            raise DataError(
                f"its tokenizer cannot be loaded: {one_line(error)}", where=folder, mend="copy its files again"
            ) from error


class Tokenizer:
    """A folder's tokenizer, giving the model's inputs.

    Attributes:
        hf: The ``transformers`` tokenizer.
        length: Tokens per text.
    """

    def __init__(self, reading: Reading, inputs: tuple[TensorSpec, ...]) -> None:
        folder = reading.folder
        self.hf = load_tokenizer(folder)
        if self.hf.pad_token is None:
            self.hf.pad_token = self.hf.eos_token or self.hf.unk_token
        if self.hf.pad_token is None:
            raise DataError("its tokenizer has no token to pad with", where=folder, mend="set its pad_token")
        config = hf_folder.read_config(folder)
        known = [n for n in (hf_folder.longest(config), self.hf.model_max_length) if n]
        self.length = min(reading.max_length, *known)
        self.asked = reading.max_length
        self.vocabulary = hf_folder.vocabulary(config)
        self.folder, self.inputs = folder, inputs
        self.seen = self.full = 0

    def read(self, first: Sequence[Any], second: Sequence[Any] | None = None, **options: Any) -> tuple[Arrays, Any]:
        """Tokenise texts, or pairs of them, or lists of words.

        Returns:
            One array per model input, ``(N, length)``, and the tokenizer's own answer.

        Raises:
            DataError: A token's id is beyond the model's vocabulary, or the model takes an input that no text gives.
        """
        with quiet_transformers():
            try:
                made = self.hf(
                    list(first),
                    None if second is None else list(second),
                    padding="max_length",
                    truncation="only_second" if options.get("return_offsets_mapping") else True,
                    max_length=self.length,
                    return_tensors="np",
                    **options,
                )
            except Exception as error:  # a text that is no text, or a fast tokenizer that is not there
                raise DataError(f"its tokenizer failed: {one_line(error)}", where=self.folder) from error
        ids, mask = np.asarray(made["input_ids"]), np.asarray(made["attention_mask"])
        if ids.size and int(ids.max()) >= self.vocabulary:
            raise DataError(
                f"its tokenizer gives ids up to {int(ids.max())}, and the model has {self.vocabulary}",
                where=self.folder,
                mend="take tokenizer and model from the same place",
            )
        self.seen += len(ids)
        self.full += int(mask.all(axis=1).sum())
        return tuple(self._input(spec, made, mask) for spec in self.inputs), made

    def _input(self, spec: TensorSpec, made: Any, mask: Array) -> Array:
        if spec.name in made:
            return np.asarray(made[spec.name]).astype(spec.dtype)
        if spec.name == "token_type_ids":
            return np.zeros(mask.shape, spec.dtype)
        if spec.name == "position_ids":
            # As transformers' generation counts them: from the first token that is no padding.
            return np.where(mask != 0, np.cumsum(mask, axis=1) - 1, 1).astype(spec.dtype)
        if spec.name.startswith("past_key_values"):
            return np.zeros((len(mask), *(size or 0 for size in spec.shape[1:])), spec.dtype)
        raise DataError(f"the model takes {spec.name}, which no text gives", where=self.folder)

    def note(self) -> str:
        """What was done, in one sentence."""
        note = f"texts were padded to {self.length} tokens"
        if self.length < self.asked:
            note += f" (the model takes no more, {self.asked} were asked for)"
        return note + (f"; {self.full} of {self.seen} fill them and may be cut" if self.full else "")


def column(records: Records, asked: str | None, known: Sequence[str], where: str) -> str | None:
    """Find a column, by the name asked for or by the first known name that is there.

    Raises:
        DataError: The one asked for is not there.
    """
    if asked is not None:
        if asked not in records:
            raise DataError(f"has no column '{asked}'", where=where, mend=nearest(asked, records))
        return asked
    by_lower = {name.lower(): name for name in reversed(list(records))}
    return next((by_lower[name] for name in known if name in by_lower), None)


def needed(records: Records, asked: str | None, known: Sequence[str], what: str, where: str, option: str) -> str:
    """As :func:`column`, where it must be there."""
    found = column(records, asked, known, where)
    if found is None:
        raise DataError(
            f"has no column of {what}; its columns are {', '.join(records)}",
            where=where,
            mend=f"name it with {option}, or call it '{known[0]}'",
        )
    return found


def text_columns(records: Records, reading: Reading, where: str) -> tuple[str, ...]:
    """The column of the text, or the two of a pair."""
    if reading.text is not None:
        if not 1 <= len(reading.text) <= 2:
            raise DataError(f"names {len(reading.text)} columns; a text is one, a pair is two", where="--text")
        return tuple(needed(records, name, TEXTS, "text", where, "--text") for name in reading.text)
    names = {name.lower(): name for name in records}
    pair = next((pair for pair in PAIRS if all(name in names for name in pair)), None)
    if pair is not None:
        return names[pair[0]], names[pair[1]]
    return (needed(records, None, TEXTS, "text", where, "--text"),)


def texts_of(records: Records, name: str, where: str) -> list[str]:
    """A column whose values are all texts.

    Raises:
        DataError: One is not.
    """
    values = list(records[name])
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise DataError(
            f"column {name} holds a {type(values[wrong]).__name__} in row {wrong} (counted from 0), not a text",
            where=where,
        )
    return values


def classified(records: Records, reading: Reading, tokenizer: Tokenizer, where: str, notes: list[str]) -> Examples:
    """A class or a number per text."""
    names = text_columns(records, reading, where)
    sides = [texts_of(records, name, where) for name in names]
    inputs, _ = tokenizer.read(*sides)
    texts = [" | ".join(side) for side in zip(*sides, strict=True)]
    target = column(records, reading.target, [name for name in TARGETS if name not in names], where)
    read = f"text read from {' and '.join(names)}"
    if target is None or reading.task == "feature-extraction":
        notes.append(f"{read}; no targets")
        return Examples(inputs, None)
    notes.append(f"{read}, targets from {target}")
    place = f"{where}, column {target}"
    if hf_folder.problem_of(hf_folder.read_config(reading.folder)) == "multi_label_classification":
        notes.append("right is a text whose labels are all right, and no other")
        return Examples(inputs, marked(records[target], reading.folder, place), texts)
    targets = numbered(records[target], reading.folder, place, notes)
    return Examples(inputs, targets, texts)


def numbered(values: Sequence[Any], folder: Path, where: str, notes: list[str]) -> Array:
    """Targets as numbers; text labels by the model's own ``label2id``, else left as text to be numbered in order.

    Raises:
        DataError: A value is missing, or some labels are the model's and others are not.
    """
    if any(value is None or value == "" for value in values):
        row = next(i for i, value in enumerate(values) if value is None or value == "")
        raise DataError(f"no value in row {row} (counted from 0)", where=where)
    if all(not isinstance(value, str) for value in values):
        try:
            return np.asarray(values)
        except ValueError as error:  # lists of different lengths
            raise DataError("holds lists, and one label or number per row is needed", where=where) from error
    words = [str(value).strip() for value in values]
    if all(_is_whole(word) for word in words):
        return np.array([int(word) for word in words])
    known = class_numbers(set(words), folder)
    unknown = sorted(set(words) - known.keys())
    if not unknown:
        notes.append("text labels numbered by the model's label2id")
        return np.array([known[word] for word in words])
    if known:
        names = ", ".join(class_names(folder))
        raise DataError(f"label '{unknown[0]}' is none of the model's: {names}", where=where)
    if all(is_float(word) for word in words):
        return _floats(words, where)
    return np.array(words)


def _is_whole(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def is_float(word: str) -> bool:
    """Whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def _floats(words: Sequence[str], where: str) -> Array:
    try:
        return np.array([float(word) for word in words], np.float32)
    except ValueError as error:
        raise DataError(f"holds what is no number ({error})", where=where) from error
