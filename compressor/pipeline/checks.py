"""What can be told to be wrong with the methods and runtimes that were asked for, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from compressor.errors import MethodError, RecipeError, RuntimeUnavailableError
from compressor.model.identify import FileKind
from compressor.passes.base import FilePass, GraphPass, TorchPass
from compressor.passes.registry import works_on_graph, writes_torch_file
from compressor.pipeline.job import Method
from compressor.runtimes.registry import FORMATS, opens, require

ON_TORCH = ("torch-compile", "torch")
"""Where a file that only PyTorch runs is measured, if no runtime was named: compiled is what it is made for."""


def check_order(methods: Sequence[Method], kind: FileKind) -> None:
    """See that every method gets something that it can work on.

    Args:
        methods: In the order in which they are applied.
        kind: What the model's file holds.

    Raises:
        RecipeError: A method follows one that leaves nothing for it: a graph where it works on the PyTorch model, a
            graph whose weights are quantized already, or a file that only PyTorch runs.
        MethodError: It works on the PyTorch model, and the file is ONNX.
    """
    graph = lowered = ""
    for one in methods:
        name = one.name
        if writes_torch_file(lowered):
            raise RecipeError(
                f"{name} cannot follow {lowered}, which writes a file that only PyTorch runs", where="--method"
            )
        if works_on_graph(name):
            if lowered:
                raise RecipeError(
                    f"{name} cannot follow {lowered}, which leaves no float32 weights to it",
                    where="--method",
                    mend="name one of them",
                )
            graph = name
        elif graph:
            raise RecipeError(
                f"{name} works on the PyTorch model and cannot follow {graph}, which makes an ONNX graph of it",
                where="--method",
                mend=f"name {name} before {graph}",
            )
        elif kind is FileKind.ONNX:
            raise MethodError(
                "needs the PyTorch model, and the file is ONNX", where=name, mend="give the model it was exported from"
            )
        # fp16 by rules leaves the other layers as they are; no other method can be sure to.
        if (name != "fp16" or not one.settings.get("rules")) and (works_on_graph(name) or writes_torch_file(name)):
            lowered = name


def chosen_runtimes(
    methods: Sequence[str], passes: Sequence[FilePass | GraphPass | TorchPass], runtimes: tuple[str, ...], device: str
) -> tuple[str, ...]:
    """The runtimes to measure on.

    Args:
        methods: Names of the methods.
        passes: The methods.
        runtimes: Those that the user named.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The user's; what suits the last method if there are none; empty for the usual one of each format.

    Raises:
        RuntimeUnavailableError: One of them is not here, or does not run on the device; or none runs the result.
        MethodError: The device cannot run what the last method makes.
    """
    on_torch = writes_torch_file(methods[-1])
    chosen = runtimes or (ON_TORCH if on_torch else ())
    require(chosen, device)
    file = Path("model.safetensors" if on_torch else "model.onnx")
    if chosen and not any(opens(name, file) for name in chosen):
        raise RuntimeUnavailableError(
            f"cannot run what {methods[-1]} makes",
            where=f"--runtime {','.join(chosen)}",
            mend=f"add {FORMATS[file.suffix]}",
        )
    if on_torch:
        cast(FilePass, passes[-1]).require(device)
    return chosen
