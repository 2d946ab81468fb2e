"""What goes into a model: example inputs from the user's data or from shapes, and whether the batch is free."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.errors import DataError, ModelError
from compressor.model.base import Arrays, TorchModel
from compressor.results import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BATCH = 2
"""Examples in ``example_inputs``: torch.export takes a batch of 1 for a constant."""


def example_inputs(
    path: Path, kind: str, example: Arrays | None, input_shapes: tuple[tuple[int, ...], ...] | None
) -> tuple[Tensor, ...]:
    """Make a batch of 2 for a model whose file does not say what goes in.

    Args:
        path: The model file, for the messages.
        kind: What the file is, for the messages.
        example: Rows of the user's data, one array per input; taken before ``input_shapes``.
        input_shapes: Shapes without the batch axis; filled with fixed random float32.

    Returns:
        One tensor per input, ``(2, …)``.

    Raises:
        ModelError: Neither is given.
        DataError: The example has no rows, or another type than numbers.
    """
    import torch

    if example is not None:
        return tuple(_two_rows(array) for array in example)
    if not input_shapes:
        raise ModelError(
            f"does not say what goes into it ({kind} files hold no input shapes)",
            where=path,
            mend="give --input-shape (without the batch, e.g. 1x28x28) or --data",
        )
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(BATCH, *shape, generator=generator) for shape in input_shapes)


def _two_rows(array: np.ndarray) -> Tensor:
    import torch

    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"an example of shape {array.shape} has no rows", mend="give at least one row per input")
    rows = np.ascontiguousarray(array[:BATCH] if len(array) >= BATCH else np.repeat(array[:1], BATCH, axis=0))
    if rows.dtype.kind not in "fiub":
        raise DataError(f"an example is of type {rows.dtype}", mend="give numbers")
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def like_weights(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give inputs of floating point the type of the weights: tables of numbers come as float64, models as float32."""
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(kinds) != 1:
        return inputs
    (kind,) = kinds
    return tuple(x.to(kind) if x.is_floating_point() else x for x in inputs)


def probe(path: Path, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], bool]:
    """Run a module on its example and see whether the batch is free.

    Args:
        path: The model file, for the messages.
        module: In eval mode.
        inputs: A batch of 2.

    Returns:
        The inputs, cut to one row if the module only takes that; and whether the batch is free.

    Raises:
        ModelError: It takes neither a batch of 2 nor of 1.
    """
    import torch

    two = _try(module, inputs)
    if two is None:
        three = tuple(torch.cat([x, x[:1]]) for x in inputs)
        return inputs, _try(module, three) is None
    one = tuple(x[:1] for x in inputs)
    if _try(module, one) is None:
        return one, False
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    types = ", ".join(str(x.dtype).removeprefix("torch.") for x in inputs)
    raise ModelError(
        f"does not run on an input of shape {shapes} ({types}): {one_line(two)}",
        where=path,
        mend="check --input-shape (without the batch) or --data",
    )


def _try(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Exception | None:
    import torch

    try:
        with torch.no_grad():
            module(*inputs)
    except Exception as error:  # whatever the user's own forward() raises is the message
        return error
    return None


def outputs_of(model: TorchModel) -> tuple[TensorSpec, ...]:
    """What a model returns, by running it on its example; nothing where sizes but the batch are free.

    Sizes of a Hugging Face model's outputs that change with its inputs' are free, as in
    :func:`~compressor.model.hf_signature.output_specs`.

    Raises:
        ModelError: The first output, which is what is scored, has no row per example.
    """
    import torch

    from compressor.model.huggingface import HuggingFaceModule

    if isinstance(model.module, HuggingFaceModule):
        from compressor.model.hf_signature import output_specs

        return output_specs(model)
    if any(None in spec.shape[1:] for spec in model.inputs):
        return ()
    with torch.no_grad():
        found = model.module(*model.example_inputs)
    tensors = [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
    batch = len(model.example_inputs[0]) if model.inputs[0].shape else None
    if tensors and batch is not None and tensors[0].shape[:1] != (batch,):
        raise ModelError(
            f"its first output has the shape {tuple(tensors[0].shape)} for {batch} examples",
            where=model.summary.path,
            mend="return one row per example first: that output is scored",
        )
    return tuple(
        TensorSpec(f"output_{i}", str(x.dtype).removeprefix("torch."), (None, *x.shape[1:]) if x.ndim else ())
        for i, x in enumerate(tensors)
    )


def forward_names(path: Path, module: torch.nn.Module, count: int) -> tuple[str, ...]:
    """Name the positional inputs of ``forward()``.

    Args:
        path: The model file, for the messages.
        module: The module.
        count: How many inputs there are.

    Raises:
        ModelError: ``forward()`` takes more or fewer.
    """
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (ValueError, TypeError):
        return tuple(f"input_{i}" for i in range(count))
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    check_count(path, [p.name for p in positional], count, needed, None if open_ended else len(positional))
    names_known = [p.name for p in positional[:count]]
    return tuple(names_known + [f"input_{i}" for i in range(len(names_known), count)])


def check_count(path: Path, names: Sequence[str], given: int, least: int, most: int | None) -> None:
    """Require as many inputs as ``forward()`` takes.

    Raises:
        ModelError: There are fewer, or more.
    """
    if given < least or (most is not None and given > most):
        wanted = str(least) if most == least else f"{least} to {most}" if most is not None else f"at least {least}"
        raise ModelError(
            f"forward() takes {wanted} input{'s' * (wanted != '1')} ({', '.join(names)}) but {_were(given)} given",
            where=path,
            mend="give --input-shape once per input or, where one is not float32, the model as .pt2 or ONNX",
        )


def specs_of(names: Sequence[str], inputs: tuple[Tensor, ...], *, free: bool) -> tuple[TensorSpec, ...]:
    """Describe example inputs; every axis but the batch is fixed."""
    return tuple(
        TensorSpec(name, str(x.dtype).removeprefix("torch."), (None if free else len(x), *x.shape[1:]))
        for name, x in zip(names, inputs, strict=True)
    )


def fit_example(
    path: Path,
    specs: tuple[TensorSpec, ...],
    example: Arrays | None,
    input_shapes: tuple[tuple[int, ...], ...] | None,
) -> None:
    """Require that the user's data or shapes fit the inputs that a file says it has.

    Raises:
        DataError: They do not; names both shapes.
    """
    given = [a.shape[1:] for a in example] if example is not None else input_shapes
    if given is None:
        return
    if len(given) != len(specs):
        raise DataError(
            f"the model takes {len(specs)} input{'s' * (len(specs) != 1)} "
            f"({', '.join(s.name for s in specs)}) but {_were(len(given))} given",
            where=path,
        )
    for spec, shape in zip(specs, given, strict=True):
        wanted = spec.shape[1:]
        if len(shape) != len(wanted) or any(w not in (None, g) for w, g in zip(wanted, shape, strict=True)):
            raise DataError(
                f"input '{spec.name}' takes examples of shape {_shape(wanted)} but {_shape(tuple(shape))} was given",
                where=path,
            )
    for spec, array in zip(specs, example or (), strict=False):
        if not np.can_cast(array.dtype, spec.dtype, "same_kind") and spec.dtype != "bfloat16":
            raise DataError(f"input '{spec.name}' takes {spec.dtype} but {array.dtype} was given", where=path)


def _were(count: int) -> str:
    return f"{count} {'was' if count == 1 else 'were'}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def one_line(error: BaseException) -> str:
    """The gist of a library's error: its type and the first line that says something, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
