"""The two forms a model is loaded into: a torch module, or an ONNX file that is already one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.results import ModelSummary, Step, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Arrays = tuple[NDArray[np.generic], ...]
"""One array per model input, in the model's order; axis 0 counts the examples."""

PAST, PRESENT = "past_key_values.", "present."
"""Prefixes of a causal model's cache among its inputs and outputs, as ``optimum`` names them: ``.0.key``, ``.0.value``,
``.1.key``, …; keys and values are ``(batch, heads, past length, head size)``."""

_NAME_LENGTH = 64


@dataclass(frozen=True)
class TorchModel:
    """A model as torch runs it.

    Attributes:
        name: Short name from the file's stem, safe as the name of a folder.
        module: In eval mode, on the CPU, with ``requires_grad`` off.
        example_inputs: One tensor per input; a batch of 2 where the batch is free.
        inputs: Names, types and shapes of the positional inputs of ``forward()``; ``shape[0]`` is ``None`` if the
            batch is free, else the batch that the model was fixed to.
        summary: What the report says of it.
        steps: What was done to it so far.
    """

    name: str
    module: torch.nn.Module
    example_inputs: tuple[Tensor, ...]
    inputs: tuple[TensorSpec, ...]
    summary: ModelSummary
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class OnnxModel:
    """A model that came in as an ONNX file.

    Attributes:
        name: Short name from the file's stem, safe as the name of a folder.
        path: The file.
        inputs: Its inputs, without those that have a value in the file.
        outputs: Its outputs, up to the first whose rank the file does not tell.
        summary: What the report says of it.
    """

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    summary: ModelSummary


def safe_name(path: Path) -> str:
    """Turn a file's stem into a short name that is safe as the name of a folder on any system.

    Args:
        path: The model file.

    Returns:
        ASCII letters, digits, ``.``, ``_`` and ``-``, at most 64, not starting with a dot or dash; ``model`` if
        nothing of the stem is left.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:_NAME_LENGTH].strip("-._")
    # Names that Windows keeps for devices.
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)
    return f"model-{name}" if reserved else name or "model"
