"""TorchScript: what ``torch.jit.save`` writes, converted to a module that ``torch.export`` accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError
from compressor.model.program import program_module
from compressor.model.quiet import quiet_export
from compressor.model.screen import check_script_graph, screen_torchscript
from compressor.model.signature import check_count, one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SAVE_PT2 = "save it as .pt2 with torch.export.save, from the model that it was scripted or traced from"


def read_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Screen and load TorchScript, running nothing of it.

    Args:
        path: The file; :func:`~compressor.model.identify.identify` called it TorchScript.

    Raises:
        UnsafeFileError: It uses operators that touch files, or native classes.
        ModelError: Damaged, or has no ``forward``.
    """
    import torch

    screen_torchscript(path)
    try:
        with quiet_export():
            loaded = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise ModelError(f"cannot be loaded as TorchScript: {one_line(error)}", where=path, mend=_SAVE_PT2) from error
    check_script_graph(path, set(_kinds(loaded)))
    if not hasattr(loaded, "forward"):
        raise ModelError("is TorchScript without a forward()", where=path, mend=_SAVE_PT2)
    loaded.eval()
    # The converter takes some weights for constants; they must not want gradients either.
    for tensor in (*loaded.parameters(), *loaded.buffers()):
        tensor.requires_grad_(False)
    return loaded


def _kinds(module: torch.jit.ScriptModule) -> Iterator[str]:
    """Every operator of every graph: methods, the functions they call, and the blocks inside."""
    import torch

    for part in module.modules():
        compiled: Any = part._c
        for name in compiled._method_names():
            graph = compiled._get_method(name).graph.copy()
            torch._C._jit_pass_inline(graph)
            pending: list[Any] = [graph]
            while pending:
                for node in pending.pop().nodes():
                    yield node.kind()
                    pending.extend(node.blocks())
                    pending.extend(node.g(key) for key in node.attributeNames() if node.kindOf(key) == "g")


def check_inputs(path: Path, module: torch.jit.ScriptModule, given: int) -> None:
    """Require as many inputs as ``forward`` takes.

    Raises:
        ModelError: There are fewer, or more.
    """
    forward: Any = module.forward
    arguments = forward.schema.arguments[1:]
    needed = sum(not a.has_default_value() for a in arguments)
    check_count(path, [a.name for a in arguments], given, needed, len(arguments))


def convert(
    path: Path, script: torch.jit.ScriptModule, inputs: tuple[Tensor, ...], *, free: bool
) -> tuple[torch.nn.Module, bool]:
    """Convert TorchScript to a module that ``torch.export`` accepts.

    Args:
        path: The file, for the messages.
        script: The model.
        inputs: Example inputs that it runs on.
        free: Whether it runs on other batches too.

    Returns:
        The module, and whether its batch is free.

    Raises:
        ModelError: An operator cannot be converted, or the result computes something else.
    """
    import torch
    from torch._export.converter import TS2EPConverter

    try:
        with quiet_export(), torch.no_grad():
            program = TS2EPConverter(script, inputs).convert()
            program, free = _retrace(program_module(path, program), _names(script, len(inputs)), inputs, free=free)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"cannot be converted from TorchScript: {_operator(error)}", where=path, mend=_SAVE_PT2
        ) from error
    module = program_module(path, program)
    _weights_again(script, module)
    _check_same(path, script, module, inputs)
    return module, free


def _weights_again(script: torch.jit.ScriptModule, module: torch.nn.Module) -> None:
    """Make parameters of what the converter left as buffers, so that the model can be trained further."""
    import torch

    for name, _ in script.named_parameters():
        owner_name, _, leaf = name.rpartition(".")
        try:
            owner = module.get_submodule(owner_name)
        except AttributeError:  # the converter named it otherwise
            continue
        held = owner._buffers.get(leaf)
        if held is not None:
            del owner._buffers[leaf]
            owner.register_parameter(leaf, torch.nn.Parameter(held, requires_grad=False))


def _names(script: torch.jit.ScriptModule, count: int) -> list[str] | None:
    forward: Any = script.forward
    names = [a.name for a in forward.schema.arguments[1 : 1 + count]]
    return names if len(set(names)) == count and all(name.isidentifier() for name in names) else None


def _retrace(
    module: torch.nn.Module, names: list[str] | None, inputs: tuple[Tensor, ...], *, free: bool
) -> tuple[Any, bool]:
    """Export again: the converter frees every axis, where only the batch is meant to be."""
    import torch

    graph: Any = module.graph
    if names is not None:
        # The converter names inputs 'x_1'; give them back the names that forward() had.
        graph._codegen.pytree_info = graph._codegen.pytree_info._replace(orig_args=names)
        module.recompile()  # type: ignore[operator]
    if free:
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
        try:
            return torch.export.export(module, inputs, dynamic_shapes=shapes), True
        except Exception:  # a batch that the graph fixes is told by torch in many ways
            return torch.export.export(module, inputs), False
    return torch.export.export(module, inputs), False


def _check_same(path: Path, script: Any, module: Any, inputs: tuple[Tensor, ...]) -> None:
    import torch

    with torch.no_grad():
        before, after = script(*inputs), module(*inputs)
    flat_before, flat_after = _tensors(before), _tensors(after)
    same = len(flat_before) == len(flat_after) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4, equal_nan=True)
        for a, b in zip(flat_before, flat_after, strict=True)
    )
    if not same:
        raise ModelError("computes something else once converted from TorchScript", where=path, mend=_SAVE_PT2)


def _tensors(value: Any) -> list[Tensor]:
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(value) if hasattr(leaf, "shape")]


def _operator(error: BaseException) -> str:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = " ".join(str(link) for link in chain)
    found = re.search(r"\b(?:aten|prim|quantized|torchvision)::\w+", text)
    return f"operator {found[0]} ({one_line(chain[-1])})" if found else one_line(chain[-1])
