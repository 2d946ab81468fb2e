"""PyTorch on the Hugging Face folder of a causal language model, with its cache kept where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from compressor.model.base import PAST, PRESENT
from compressor.model.hf_load import load_folder
from compressor.results import TensorSpec
from compressor.runtimes.torch import TorchSession


class FolderSession(TorchSession):
    """A folder opened where it is, as a copy of a large model is large; the loader screens it.

    Args:
        folder: The folder; one that ``compress stream`` wrote, too.
        threads: CPU threads of the process from now on.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CompressorError: It cannot be loaded.
    """

    def __init__(self, folder: Path, threads: int, device: str = "cpu") -> None:
        model = load_folder(folder)
        module = cast(Any, model.module)
        past = {spec.name.replace(PAST, PRESENT): spec for spec in model.inputs}
        outputs = tuple(
            TensorSpec(name, "float32", past[name].shape if name in past else (None, None, None))
            for name in module.output_names
        )
        super().__init__(module.to(device), (model.inputs, outputs), threads, device, compiled=False)

    def run_tensors(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Compute all outputs and leave them on the device, so that a cache does not travel at every token.

        Args:
            inputs: Arrays, or tensors that an earlier call returned.
        """
        with torch.inference_mode():
            tensors = [
                x
                if isinstance(x, torch.Tensor)
                else torch.from_numpy(np.require(x, requirements=("C", "W"))).to(self._device)
                for x in inputs
            ]
            found = self._module(*tensors)
        return found if isinstance(found, tuple) else (found,)
