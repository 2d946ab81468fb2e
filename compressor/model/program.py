"""Exported programs: what ``torch.export.save`` writes (``.pt2``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.expressions import RefusedError, check_operator
from compressor.model.quiet import quiet_export
from compressor.model.screen import screen_program
from compressor.model.signature import BATCH, one_line
from compressor.results import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.export import ExportedProgram

# Positions of the arguments that say an operator is in training mode.
_TRAINING_ARGUMENT = {
    "aten.batch_norm.default": ("training", 5),
    "aten.dropout.default": ("train", 2),
    "aten.feature_dropout.default": ("train", 2),
    "aten._native_batch_norm_legit.default": ("training", 5),
}


def read_program(path: Path) -> ExportedProgram:
    """Screen and load an exported program.

    Args:
        path: The file; :func:`~compressor.model.identify.identify` called it an exported program.

    Raises:
        UnsafeFileError: Loading or running it could do harm.
        ModelError: Damaged, of another version of torch, for a device that is not here, or in training mode.
    """
    import torch

    screen_program(path)
    try:
        with quiet_export(), path.open("rb") as file:
            # An open file, because torch looks at the ending of a name.
            program = torch.export.load(file)
    except Exception as error:
        raise ModelError(
            f"cannot be loaded as an exported program: {_reason(error)}",
            where=path,
            mend="save it anew with this torch's torch.export.save, on the CPU",
        ) from error
    _check_targets(path, program)
    return program


def _reason(error: BaseException) -> str:
    """The innermost cause: torch wraps a node's error in pages of graph."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _check_targets(path: Path, program: ExportedProgram) -> None:
    """Look once more, at what the names of operators really became, before anything is run."""
    import torch

    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes if node.op != "placeholder"):
        if node.op in {"get_attr", "output"}:
            continue
        target: Any = node.target
        name = f"torch.ops.{target}" if isinstance(target, torch._ops.OpOverload) else None
        if isinstance(target, torch._ops.HigherOrderOperator):
            name = f"torch.ops.higher_order.{target.name()}"
        elif name is None and node.op == "call_function":
            name = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}"
        try:
            check_operator(name or f"{node.op} {target}")
        except RefusedError as error:
            raise UnsafeFileError(f"uses {error}, not known to be harmless", where=path) from error
        argument = _TRAINING_ARGUMENT.get(str(target))
        if argument and (node.kwargs.get(argument[0]) or node.args[argument[1] : argument[1] + 1] == (True,)):
            raise ModelError(
                f"was exported in training mode ('{node.name}' normalises or drops by the batch)",
                where=path,
                mend="call model.eval() before torch.export.export and save it anew",
            )


def program_inputs(path: Path, program: ExportedProgram) -> tuple[TensorSpec, ...]:
    """Read the signature: names, types, shapes, ``None`` for a free axis.

    Raises:
        ModelError: An input is no tensor, or is not positional.
    """
    import torch

    signature = program.module_call_graph[0].signature
    nested = program.call_spec.in_spec
    users = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in users]
    positional = nested.num_children == 2 and nested.child(0).num_children == len(nodes) == nested.num_leaves
    values = [node.meta.get("val") for node in nodes]
    if not positional or not nodes or not all(isinstance(v, torch.Tensor) and v.dim() > 0 for v in values):
        raise ModelError(
            "takes other inputs than positional tensors with a batch axis",
            where=path,
            mend="export a wrapper whose forward() takes one tensor per input",
        )
    names = signature.forward_arg_names if signature is not None else None
    if names is None or len(names) != len(nodes):
        names = [node.name for node in nodes]
    return tuple(
        TensorSpec(
            name,
            str(value.dtype).removeprefix("torch."),
            tuple(size if isinstance(size, int) else None for size in value.shape),
        )
        for name, value in zip(names, values, strict=True)
    )


def program_module(path: Path, program: ExportedProgram) -> torch.nn.Module:
    """Turn a program into a module that runs, and can be exported again.

    Raises:
        ModelError: torch cannot.
    """
    try:
        with quiet_export():
            # check_guards would have torch execute source text that the file brings along.
            module = program.module(check_guards=False)
    except Exception as error:
        raise ModelError(f"cannot be made to run: {one_line(error)}", where=path) from error
    module.training = False
    return module


def program_example(program: ExportedProgram, specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    """Make inputs from the sample inputs of the file, a batch of 2 where it is free and 2 is allowed.

    Args:
        program: The program.
        specs: Its inputs.

    Returns:
        One tensor per input.
    """
    import torch

    saved = program.example_inputs[0] if program.example_inputs else ()
    generator = torch.Generator().manual_seed(0)
    made: list[Tensor] = []
    for index, spec in enumerate(specs):
        if index < len(saved) and isinstance(saved[index], torch.Tensor):
            sample = saved[index].detach()
        else:
            shape = [BATCH if size is None else size for size in spec.shape]
            sample = torch.rand(shape, generator=generator).to(getattr(torch, spec.dtype))
        if spec.shape[0] is None and len(sample) > 0:
            sample = sample[:BATCH] if len(sample) >= BATCH else sample[:1].repeat(BATCH, *[1] * (sample.dim() - 1))
        made.append(sample)
    return tuple(made)
