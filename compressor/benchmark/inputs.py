"""The examples that every arm goes round, written once for all workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compressor.errors import MeasurementError
from compressor.model.base import Arrays

POOL_BYTES = 256 * 2**20
POOL_EXAMPLES = 512


def write_inputs(inputs: Arrays, batch: int, path: Path) -> None:
    """Write as many examples as are real and stay in memory, at least a batch of them if there are so many.

    Args:
        inputs: One array per model input, ``(N, …)`` each.
        batch: Examples per call.
        path: The ``.npz`` to write.

    Raises:
        MeasurementError: There is no room for it.
    """
    bytes_each = max(1, sum(x[:1].nbytes for x in inputs))
    count = max(batch, min(POOL_EXAMPLES, POOL_BYTES // bytes_each))
    try:
        np.savez(path, allow_pickle=False, **{f"input_{i:03}": x[:count] for i, x in enumerate(inputs)})
    except OSError as error:
        mend = "make room there, or name another folder in TMPDIR"
        raise MeasurementError(
            f"the inputs cannot be written ({error.strerror})", where=path.parent, mend=mend
        ) from error
