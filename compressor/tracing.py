"""Tracing a torch model into a graph of ATen operators, with errors that name the line of the model."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import ExportError
from compressor.model.quiet import quiet_export
from compressor.results import TensorSpec

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

    from compressor.model.base import TorchModel


def trace(model: TorchModel) -> ExportedProgram:
    """Trace with every axis free that the model's inputs leave free.

    ``Dim.DYNAMIC`` rather than a named ``Dim``: it takes over the bounds of a program that was exported before.

    Args:
        model: The model, in eval mode.

    Returns:
        The program; it shares the model's weights.

    Raises:
        ExportError: ``torch.export`` cannot trace the model.
    """
    import torch
    from torch.export import Dim

    from compressor.model.huggingface import HuggingFaceModule

    free: tuple[object, ...] = tuple(
        {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if size is None} or None for spec in model.inputs
    )
    if isinstance(model.module, HuggingFaceModule):  # its inputs are one argument, *inputs
        free = (free,)
    # torch's fused encoder layer is one operator, which neither ONNX nor pruning can look into.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quiet_export(), torch.no_grad():
            return torch.export.export(model.module, model.example_inputs, dynamic_shapes=free)
    except Exception as error:  # torch raises UserError, GuardOnDataDependentSymNode, the model's own errors, …
        raise _trace_error(error, model.name) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def outputs_of(program: ExportedProgram) -> tuple[TensorSpec, ...]:
    """Name, type and shape of what a traced program returns; a symbolic size is free."""
    import torch

    nodes = {node.name: node for node in program.graph.nodes}
    specs = []
    for name in program.graph_signature.user_outputs:
        value = nodes[name].meta.get("val") if name in nodes else None
        if isinstance(value, torch.Tensor):
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            specs.append(TensorSpec(name, str(value.dtype).removeprefix("torch."), shape))
    return tuple(specs)


def node_line(node: Node) -> str | None:
    """The line of the user's model that a node of a traced graph comes from, as ``file.py:12``; ``None`` if unknown."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    frames = [frame for frame in frames if not _is_library(frame[0])]
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else None


def first_line(text: str) -> str:
    """The first line of a library's message that says anything."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def _trace_error(error: Exception, name: str) -> ExportError:
    """Turn a failure of ``torch.export`` into one line that says where and what to change."""
    text = str(error)
    where = f"{name}, {line}" if (line := _user_line(error)) else name
    if "data-dependent" in text or type(error).__name__ == "GuardOnDataDependentSymNode":
        return ExportError(
            "what the model does depends on the values of its input",
            where=where,
            mend="replace the Python branch or .item() by torch.where, or by torch.cond",
        )
    if fixed := re.search(r"specialized it to be a constant \((\d+)\)", text):
        return ExportError(
            f"its forward() fixes an axis that should be free to {fixed[1]}",
            where=where,
            mend="use x.shape[0] or -1 where a reshape or view has that number, or give the model a fixed batch",
        )
    return ExportError(
        f"torch.export cannot trace it: {first_line(text)}",
        where=where,
        mend="use torch operations only, with shapes that follow from the inputs' shapes",
    )


def _user_line(error: Exception) -> str | None:
    """Find the last line of the model's code that the error went through, as ``file.py:12 'code'``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} '{frames[-1].line}'" if frames else None


def _is_library(file: str) -> bool:
    """Whether a line of code is torch's, Python's, generated or ours, rather than the model's."""
    import torch

    path = Path(file)
    standard = Path(sysconfig.get_paths()["stdlib"]) in path.parents and "site-packages" not in path.parts
    ours = Path(__file__).parent in path.parents
    return file.startswith("<") or ours or standard or Path(torch.__file__).parent in path.parents
