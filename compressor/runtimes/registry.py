"""The runtimes by name, what each opens, and which one opens which file.

How to add a runtime: write ``compressor/runtimes/NAME.py`` with ``require(device)``, which raises in one line where the
runtime is not installed or has no such device, and ``open_session(path, threads, device)``; then add its line to
:data:`RUNTIMES`. ``tests/runtimes/test_contract.py`` runs it like the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import RuntimeUnavailableError, nearest
from compressor.runtimes.base import Session
from compressor.runtimes.device import CPU, cuda_index

ONNX, PROGRAM, TORCHAO = ".onnx", ".pt2", ".safetensors"


@dataclass(frozen=True)
class Runtime:
    """One line of the table.

    Attributes:
        module: Where it is; imported when it is first used.
        opens: Endings of the files that it opens.
        options: Keyword arguments of the module's ``require`` and ``open_session`` that make it this runtime.
    """

    module: str
    opens: tuple[str, ...]
    options: Mapping[str, bool]


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime("compressor.runtimes.onnxruntime", (ONNX,), {}),
    "onnxruntime-tensorrt": Runtime("compressor.runtimes.onnxruntime", (ONNX,), {"tensorrt": True}),
    "openvino": Runtime("compressor.runtimes.openvino", (ONNX,), {}),
    "openvino-bf16": Runtime("compressor.runtimes.openvino", (ONNX,), {"bf16": True}),
    "torch": Runtime("compressor.runtimes.torch", (PROGRAM, TORCHAO), {}),
    "torch-compile": Runtime("compressor.runtimes.torch", (PROGRAM, TORCHAO), {"compiled": True}),
}
"""Every runtime; the first that opens a file is its usual one."""

FORMATS = {
    ending: next(name for name, runtime in RUNTIMES.items() if ending in runtime.opens)
    for ending in (ONNX, PROGRAM, TORCHAO)
}
"""File ending to the runtime that opens it when none is named."""


def opens(runtime: str, path: Path) -> bool:
    """Whether a runtime opens files of that ending."""
    return path.suffix.lower() in RUNTIMES[runtime].opens


def require(runtimes: Sequence[str], device: str = CPU) -> None:
    """See that runtimes are there before anything long is begun.

    Args:
        runtimes: Their names; empty for the two usual ones.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        RuntimeUnavailableError: No such runtime or device, or the runtime is not installed or does not run on it.
    """
    for name in runtimes:
        if name not in RUNTIMES:
            raise RuntimeUnavailableError(f"no runtime '{name}'", where="--runtime", mend=nearest(name, RUNTIMES))
    if twice := next((name for name in runtimes if runtimes.count(name) > 1), None):
        raise RuntimeUnavailableError(f"names {twice} twice", where="--runtime")
    # The two usual ones are always installed: on the CPU there is nothing to ask, and torch is slow to import.
    for name in runtimes or (() if cuda_index(device) is None else ("torch", "onnxruntime")):
        _module(name).require(device, **RUNTIMES[name].options)


def open_session(artifact_path: Path, runtime: str | None = None, *, threads: int = 1, device: str = CPU) -> Session:
    """Load a model file.

    Args:
        artifact_path: The file; its ending says its format.
        runtime: Name of the runtime; by the file's format if ``None``.
        threads: CPU threads that one call may use.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

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
    if runtime is not None and not opens(runtime, artifact_path):
        raise RuntimeUnavailableError(
            f"{runtime} does not open a '{ending}' file", where=artifact_path, mend=f"use {FORMATS[ending]} for it"
        )
    if not artifact_path.is_file():
        raise RuntimeUnavailableError("no such file", where=artifact_path, mend="check the path")
    if threads < 1:
        raise RuntimeUnavailableError(f"cannot run on {threads} threads", mend="give at least 1")
    name = runtime or FORMATS[ending]
    module = _module(name)
    module.require(device, **RUNTIMES[name].options)
    session: Session = module.open_session(artifact_path, threads, device, **RUNTIMES[name].options)
    return session


def _module(name: str) -> Any:
    return importlib.import_module(RUNTIMES[name].module)
