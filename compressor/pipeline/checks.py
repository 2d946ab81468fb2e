"""What can be told to be wrong with the methods and runtimes that were asked for, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from compressor.errors import RecipeError, RuntimeUnavailableError
from compressor.passes.base import FilePass, GraphPass, TorchPass
from compressor.passes.registry import works_on_torch, writes_torch_file
from compressor.runtimes.registry import FORMATS, opens, require

ON_TORCH = ("torch-compile", "torch")
"""Where a file that only PyTorch runs is measured, if no runtime was named: compiled is what it is made for."""


def check_order(methods: Sequence[str]) -> None:
    """See that every method gets what the one before it makes.

    Raises:
        RecipeError: A method on the PyTorch model follows one that made a graph of it, or anything follows torchao.
    """
    before = graph = ""
    for name in methods:
        if writes_torch_file(before):
            raise RecipeError(
                f"{name} cannot follow {before}, which writes a file that only PyTorch runs", where="--method"
            )
        on_torch = works_on_torch(name) or writes_torch_file(name)
        if on_torch and graph:
            raise RecipeError(
                f"{name} works on the PyTorch model and cannot follow {graph}, which makes an ONNX graph of it",
                where="--method",
                mend=f"name {name} before {graph}",
            )
        graph = graph if on_torch else name
        before = name


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
