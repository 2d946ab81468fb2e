"""The classes of a Hugging Face model: their names and numbers, as its config gives them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from compressor.model import hf_folder


def class_names(folder: Path) -> tuple[str, ...]:
    """Names by class number; ``LABEL_0`` and so on, as ``transformers`` calls them, where the config has none."""
    config = hf_folder.read_config(folder)
    given = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    return tuple(given.get(number, f"LABEL_{number}") for number in range(hf_folder.label_count(config)))


def class_numbers(words: Iterable[str], folder: Path) -> dict[str, int]:
    """Numbers of those words that are labels of the model; case counts only where two labels differ in nothing else."""
    known = {str(name): int(number) for name, number in (hf_folder.read_config(folder).get("label2id") or {}).items()}
    lower = {name.lower(): number for name, number in reversed(list(known.items()))}
    return {word: known.get(word, lower.get(word.lower(), -1)) for word in words if word.lower() in lower}
