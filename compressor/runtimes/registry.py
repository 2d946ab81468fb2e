"""The runtimes by name, and which one opens which file."""

from __future__ import annotations

import importlib
from pathlib import Path

from compressor.errors import RuntimeUnavailableError, nearest
from compressor.runtimes.base import Session

RUNTIMES = {"onnxruntime": "compressor.runtimes.onnxruntime", "torch": "compressor.runtimes.torch"}
"""Runtime to the module whose ``open_session(path, threads)`` opens a file in it; imported when it is first used."""

FORMATS = {".onnx": "onnxruntime", ".pt2": "torch"}
"""File ending to the runtime that opens it when none is named."""


def open_session(artifact_path: Path, runtime: str | None = None, *, threads: int = 1) -> Session:
    """Load a model file.

    Args:
        artifact_path: The file; its ending says its format.
        runtime: Name of the runtime; by the file's format if ``None``.
        threads: Threads that one call may use.

    Returns:
        The loaded model.

    Raises:
        RuntimeUnavailableError: No such runtime, file or format, or the runtime cannot load the file.
    """
    endings = ", ".join(sorted(FORMATS))
    ending = artifact_path.suffix.lower()
    if runtime is not None and runtime not in RUNTIMES:
        raise RuntimeUnavailableError(f"no runtime '{runtime}'", mend=nearest(runtime, RUNTIMES))
    if ending not in FORMATS:
        raise RuntimeUnavailableError(
            f"no runtime opens a '{ending}' file", where=artifact_path, mend=f"give one that ends in {endings}"
        )
    if runtime is not None and FORMATS[ending] != runtime:
        raise RuntimeUnavailableError(
            f"{runtime} does not open a '{ending}' file", where=artifact_path, mend=f"use {FORMATS[ending]} for it"
        )
    if not artifact_path.is_file():
        raise RuntimeUnavailableError("no such file", where=artifact_path, mend="check the path")
    if threads < 1:
        raise RuntimeUnavailableError(f"cannot run on {threads} threads", mend="give at least 1")
    module = importlib.import_module(RUNTIMES[runtime or FORMATS[ending]])
    session: Session = module.open_session(artifact_path, threads)
    return session
