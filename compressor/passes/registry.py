"""The methods by name; a method's module is imported when the method is first used."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from compressor.errors import MethodError, nearest

if TYPE_CHECKING:  # the command line reads the names, and needs no NumPy for that
    from compressor.passes.base import FilePass, GraphPass, TorchPass

METHODS = {
    "bf16": "compressor.passes.bf16:Bf16",
    "distill": "compressor.passes.distill:Distill",
    "fp16": "compressor.passes.half:Fp16",
    "int4": "compressor.passes.weight_only:Int4",
    "int8": "compressor.passes.int8:Int8",
    "int8-dynamic": "compressor.passes.int8:Int8Dynamic",
    "int8-static": "compressor.passes.int8:Int8Static",
    "int8-weight-only": "compressor.passes.weight_only:Int8WeightOnly",
    "prune": "compressor.passes.prune:Prune",
    "prune-2:4": "compressor.passes.prune_masks:Prune24",
    "prune-unstructured": "compressor.passes.prune_masks:PruneUnstructured",
    "qat": "compressor.passes.qat:Qat",
    "smoothquant": "compressor.passes.smoothquant:SmoothQuant",
    "torchao-2:4": "compressor.passes.torchao_methods:TorchaoSparse24",
    "torchao-fp8": "compressor.passes.torchao_methods:TorchaoFp8",
    "torchao-int4-weight-only": "compressor.passes.torchao_methods:TorchaoInt4WeightOnly",
    "torchao-int8-dynamic": "compressor.passes.torchao_methods:TorchaoInt8Dynamic",
    "torchao-int8-weight-only": "compressor.passes.torchao_methods:TorchaoInt8WeightOnly",
}
"""Method to the class that does it, ``module:Class``."""


ON_TORCH: frozenset[str] = frozenset({"distill", "prune", "prune-2:4", "prune-unstructured", "qat"})
"""Methods that turn a torch model into another (TorchPass). ``bf16`` and those of torchao turn one into a file for
PyTorch (FilePass); all others turn an ONNX file into another (GraphPass)."""


def works_on_torch(name: str) -> bool:
    """Whether a method works on the PyTorch model rather than on the ONNX graph.

    Args:
        name: A method's name.
    """
    return name in ON_TORCH


def works_on_graph(name: str) -> bool:
    """Whether a method works on the ONNX graph.

    Args:
        name: A method's name.
    """
    return not works_on_torch(name) and not writes_torch_file(name)


def writes_torch_file(name: str) -> bool:
    """Whether a method makes a file of the PyTorch model that only PyTorch runs (FilePass).

    Args:
        name: A method's name.
    """
    return name == "bf16" or name.startswith("torchao-")


def method_names() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    return tuple(sorted(METHODS))


def method_class(name: str) -> Any:
    """The dataclass of a method, whose fields are its settings.

    Args:
        name: The method's name.

    Raises:
        MethodError: There is no such method.
    """
    if name not in METHODS:
        raise MethodError(f"no method '{name}'", mend=nearest(name, METHODS))
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_pass(name: str, **settings: Any) -> FilePass | GraphPass | TorchPass:
    """Make a method with its settings.

    Args:
        name: The method's name.
        settings: Its settings; those left out keep their defaults.

    Returns:
        The method, ready to be applied.

    Raises:
        MethodError: There is no such method or setting, or a setting is out of range.
    """
    kind = method_class(name)
    known = [field.name for field in fields(kind)]
    if unknown := sorted(settings.keys() - set(known)):
        raise MethodError(f"has no setting '{unknown[0]}'", where=name, mend=nearest(unknown[0], known))
    made: FilePass | GraphPass | TorchPass = kind(**settings)
    return made
