"""Checkpoints of a training run: one safetensors file, its progress as JSON in the header, renamed into place.

A run is known by what decides its result (weights, data, settings, seed), so a checkpoint is never taken up by another.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.errors import MethodError
from compressor.model.quiet import quiet_export
from compressor.task.base import Examples

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ROWS_HASHED = 1024


@dataclass
class Progress:
    """How far a run is; all that is needed to go on, beside the tensors.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the epoch after those.
        best: Smallest validation loss so far; ``None`` without a validation part.
        best_epoch: The epoch it was found after; 0 is before training.
        waited: Epochs since then.
        first: The validation loss before training; ``None`` without a validation part.
        finished: Whether the run is over.
        scaler: State of the loss scaling of half precision.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    first: float | None = None
    finished: bool = False
    scaler: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The file of one run.

    Attributes:
        path: Where it is, or will be.
    """

    path: Path

    def load(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """Read it.

        Returns:
            How far the run is and its tensors; ``None`` where there is no checkpoint.

        Raises:
            MethodError: The file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                progress = Progress(**json.loads(file.metadata()["progress"]))
                return progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no mapping
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MethodError(
                f"the checkpoint is damaged: {error}", where=self.path, mend="delete it to train from the start"
            ) from error

    def save(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Write beside and rename: a kill leaves the former checkpoint or this one.

        Args:
            progress: How far the run is.
            tensors: Weights, best weights and the optimizer's state.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        from safetensors.torch import save

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        # Through Python's own file: safetensors' writer hides which error of the system it met.
        content = save(tensors, {"progress": json.dumps(asdict(progress))})
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        os.replace(partial, self.path)


def copy_of(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy, which shares no weights."""
    with quiet_export():  # copying a traced graph trips over torch's own deprecations (LeafSpec, torch 2.13)
        return copy.deepcopy(module)


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, on the CPU, none sharing memory with another."""
    import torch

    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def put_weights(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what :func:`weights_of` took; whatever a module keeps beside tensors stays as it is."""
    module.load_state_dict({**module.state_dict(), **weights})


def flatten_optimizer(state: dict[str, Any]) -> dict[str, Tensor]:
    """Name the tensors in an optimizer's ``state_dict()`` ``INDEX.KEY``."""
    return {
        f"{index}.{key}": value.detach().to("cpu", copy=True).contiguous()
        for index, entries in state["state"].items()
        for key, value in entries.items()
        if value is not None  # momentum before the first step
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what :func:`flatten_optimizer` took."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def fingerprint(module: torch.nn.Module, examples: Examples, *settings: object) -> str:
    """Hash of what decides the result of a run.

    Args:
        module: The model before training.
        examples: What it is trained on; of long arrays, 1024 rows spread over the whole.
        settings: Anything whose text tells it apart.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(weights_of(module).items()):
        array = value.float().numpy() if value.is_floating_point() else value.numpy()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(np.ascontiguousarray(array).data)
    for column in (*examples.inputs, *(() if examples.targets is None else (examples.targets,))):
        rows = np.unique(np.linspace(0, max(len(column) - 1, 0), _ROWS_HASHED).astype(np.int64))
        digest.update(f"{column.dtype} {column.shape}".encode())
        digest.update(np.ascontiguousarray(column[rows]).data)
    digest.update(repr(settings).encode())
    return digest.hexdigest()
