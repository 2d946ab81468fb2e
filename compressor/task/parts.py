"""Parts: what a reader found, before it is checked against the model and split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.base import Examples

PartName = Literal["all", "train", "calibration", "test"]
_PREFIX: Mapping[PartName, str] = {"all": "", "train": "train_", "calibration": "calibration_", "test": "test_"}

SPLITS: Mapping[str, PartName] = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "validation": "calibration",
    "valid": "calibration",
    "val": "calibration",
    "dev": "calibration",
    "test": "test",
}
"""Names of files and folders, and the part that they hold."""


@dataclass(frozen=True)
class Parts:
    """The examples of a data set by part.

    Attributes:
        examples: ``all`` alone (to be split here), or ``test`` with ``train``, ``calibration`` or both.
        name: The data's name for the report.
        notes: What was decided while reading, one sentence each.
        class_names: Names by class number; empty where they have none.
        columns: Names of the columns of a table's inputs; empty for other data.
    """

    examples: Mapping[PartName, Examples]
    name: str
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def array_name(part: PartName, inputs: tuple[TensorSpec, ...] | None, index: int) -> str:
    """What messages call an input array: its key in a ``.npz`` file."""
    return _PREFIX[part] + (inputs[index].name if inputs is not None and len(inputs) > 1 else "x")


def target_name(part: PartName) -> str:
    """What messages call the targets: their key in a ``.npz`` file."""
    return f"{_PREFIX[part]}y"


def gather(arrays: Mapping[str, NDArray[np.generic]], inputs: tuple[TensorSpec, ...] | None, where: str) -> Parts:
    """Sort named arrays into parts.

    Args:
        arrays: Inputs under ``x``, ``train_x``, ``calibration_x``, ``test_x``, or the names of the model's inputs
            behind the same prefixes; targets under ``y``, ``train_y``, ``calibration_y``, ``test_y``. ``x`` beside
            ``test_x`` is the training part; ``test_x`` alone is all there is, and is split.
        inputs: The model's inputs, if known.
        where: The data, for messages and as their name.

    Raises:
        DataError: An input is missing, there is no test part, or only some parts have targets.
    """
    examples: dict[PartName, Examples] = {}
    used: set[str] = set()
    for part, prefix in _PREFIX.items():
        if keys := _input_keys(set(arrays), prefix, inputs, where):
            examples[part] = Examples(tuple(arrays[key] for key in keys), arrays.get(f"{prefix}y"))
            used.update(keys, [f"{prefix}y"])
    if not examples:
        names = [spec.name for spec in inputs or ()]
        wanted = f"none of the model's inputs {', '.join(names)}" if len(names) > 1 else "no x"
        raise DataError(f"has {wanted}", where=where, mend=f"keys: {_listed(arrays)}")
    if examples.keys() == {"test"}:
        examples["all"] = examples.pop("test")
    elif {"all", "test"} <= examples.keys() and "train" not in examples:
        examples["train"] = examples.pop("all")
    if "all" in examples and len(examples) > 1:
        other = next(part for part in examples if part != "all")
        raise DataError(f"has x beside {other}_x", where=where, mend="call the examples to score test_x")
    if "all" not in examples and "test" not in examples:
        raise DataError(f"has {next(iter(examples))}_x but no test_x to score", where=where)
    bare = [part for part, some in examples.items() if some.targets is None]
    if bare and len(bare) < len(examples):
        raise DataError(f"has targets, but no {bare[0]}_y", where=where, mend=f"keys: {_listed(arrays)}")
    ignored = arrays.keys() - used
    notes = (f"ignored what is neither an input nor targets: {_listed(ignored)}",) if ignored else ()
    return Parts(examples, where, notes)


def _input_keys(given: set[str], prefix: str, inputs: tuple[TensorSpec, ...] | None, where: str) -> list[str]:
    """The keys of one part's inputs in the model's order; empty where that part is not there."""
    wanted = [prefix + spec.name for spec in inputs or ()]
    if wanted and given.issuperset(wanted):
        return wanted
    if len(wanted) < 2 and f"{prefix}x" in given:
        return [f"{prefix}x"]
    if given.intersection(wanted) or f"{prefix}x" in given:
        missing = ", ".join(key for key in wanted if key not in given)
        raise DataError(f"lacks the model's input {missing}", where=where, mend=f"keys: {_listed(given)}")
    return []


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "none"
