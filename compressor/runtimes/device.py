"""Where a model runs: ``cpu``, ``cuda`` (the first NVIDIA GPU) or ``cuda:1``."""

from __future__ import annotations

import re

from compressor.errors import RuntimeUnavailableError

CPU = "cpu"


def cuda_index(device: str) -> int | None:
    """Read a device's name.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        Number of the GPU, ``None`` for the CPU.

    Raises:
        RuntimeUnavailableError: It is none of these.
    """
    if device == CPU:
        return None
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not found:
        raise RuntimeUnavailableError(f"no device '{device}'", where="--device", mend="known: cpu, cuda, cuda:1")
    return int(found[1] or 0)


def no_gpu(runtime: str, why: str) -> RuntimeUnavailableError:
    """The one line where a GPU was asked for and this runtime has none."""
    return RuntimeUnavailableError(
        f"{runtime} cannot run on a GPU here: {why}", where="--device", mend="use --device cpu"
    )
