"""PyTorch eager: runs the exported program, operator by operator, as the user's own model would run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.errors import RuntimeUnavailableError
from compressor.model.base import Arrays
from compressor.results import KernelCounts, RuntimeInfo, TensorSpec
from compressor.runtimes.batching import predict


class TorchSession:
    """A ``.pt2`` file loaded by PyTorch on the CPU.

    Attributes:
        info: The runtime, its version and the options in force.
        inputs: The model's inputs.
        outputs: Its outputs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        # Archives reach this point only after the model loader has screened them or export has written them.
        try:
            program = torch.export.load(path)
            self._module: Any = program.module()
        except Exception as error:  # torch raises RuntimeError, KeyError, zipfile's and pickle's own, …
            raise RuntimeUnavailableError(f"torch cannot load it: {error}", where=path) from error
        torch.set_num_threads(threads)
        placeholders = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = _specs(placeholders[name] for name in signature.user_inputs if name in placeholders)
        self.outputs = _specs(placeholders[name] for name in signature.user_outputs if name in placeholders)
        self.info = RuntimeInfo("torch", torch.__version__, "cpu", {"mode": "eager", "threads": str(threads)})

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch, ``(batch, …)`` each, in the order of ``outputs``."""
        with torch.inference_mode():
            found = self._module(*(torch.from_numpy(np.require(x, requirements=("C", "W"))) for x in inputs))
        return tuple(x.numpy() for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor))

    def predict(self, inputs: Arrays) -> NDArray[np.generic]:
        """Compute the first output of one batch, ``(batch, …)``; see :func:`~compressor.runtimes.batching.predict`."""
        return predict(self.run, self.inputs, inputs)

    def kernels(self) -> KernelCounts | None:
        """Nothing: PyTorch does not tell which kernels its operators end in."""
        return None


def _specs(nodes: Iterable[torch.fx.Node]) -> tuple[TensorSpec, ...]:
    """Read name, type and shape off graph nodes; a symbolic size is free."""
    specs = []
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            specs.append(TensorSpec(node.name, str(value.dtype).removeprefix("torch."), shape))
    return tuple(specs)


def open_session(path: Path, threads: int) -> TorchSession:
    """Load an exported program.

    Args:
        path: A ``.pt2`` file that export wrote, or that the model loader has screened.
        threads: Threads of the process from now on; PyTorch knows no threads per model.

    Returns:
        The loaded model.

    Raises:
        RuntimeUnavailableError: PyTorch cannot load it.
    """
    return TorchSession(path, threads)
