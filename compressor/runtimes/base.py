"""The Session: an artifact loaded by a runtime, ready to predict."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.model.base import Arrays
from compressor.results import KernelCounts, RuntimeInfo, TensorSpec


class Session(Protocol):
    """A loaded model file.

    Attributes:
        info: The runtime, its version and the options in force.
        inputs: The model's inputs, in the order ``run`` wants them.
        outputs: Its outputs, in the order ``run`` returns them.
    """

    info: RuntimeInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch; returns when they are computed, not merely queued."""

    def predict(self, inputs: Arrays) -> NDArray[np.generic]:
        """Compute the first output of one batch, ``(batch, …)``.

        A model whose batch axis is fixed is called in pieces of that size, the last one padded by repeating its last
        example and cut again.
        """

    def kernels(self) -> KernelCounts | None:
        """Count the arithmetic that really runs in low precision; ``None`` where the runtime does not tell."""
