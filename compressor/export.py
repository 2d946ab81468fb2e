"""PyTorch to files: the exported program (the baseline as the user runs it) and ONNX, checked against each other.

What is written is the same for the same weights, whichever file they came from: names that the exporter invents are
replaced by the layers' names, and what it notes down beside them (stack traces, paths of this machine) is left out.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.errors import ExportError
from compressor.macs import count_macs
from compressor.model.base import Arrays
from compressor.model.quiet import quiet_export
from compressor.onnx_file import canonical, external_files, load_outline, save_onnx, staged
from compressor.results import Artifact, Parity, Step, TensorSpec
from compressor.tracing import first_line, node_line, outputs_of, trace

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

    from compressor.model.base import TorchModel

OPSET = 20
"""ONNX operator set that is written: the first with Gelu as one operator."""

PARITY_BATCH = 64
"""Examples per call when outputs are compared."""


class Runnable(Protocol):
    """What :func:`check_parity` needs of a session."""

    inputs: tuple[TensorSpec, ...]

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch."""


def export_program(model: TorchModel, target: Path) -> Artifact:
    """Write the model as PyTorch's exported program, unchanged: the baseline.

    Args:
        model: The model, in eval mode; axes whose size is ``None`` in its inputs stay free.
        target: The ``.pt2`` file to write.

    Returns:
        What was written; its path is the file's name.

    Raises:
        ExportError: ``torch.export`` cannot trace the model.
    """
    import torch

    program = trace(model)
    with staged(target) as path, quiet_export():
        torch.export.save(program, path)
    return Artifact(
        path=target.name,
        format="pt2",
        sha256=sha256_of(target),
        size_bytes=target.stat().st_size,
        inputs=model.inputs,
        outputs=outputs_of(program),
        opset=None,
        parameters=sum(parameter.numel() for parameter in program.parameters()),
        steps=(*model.steps, Step("export", {"format": "pt2"})),
    )


def export_torch(model: TorchModel, folder: Path) -> Artifact:
    """Write the model as PyTorch runs it: a Hugging Face model as its own folder, any other as an exported program.

    A Hugging Face model is run eagerly by ``transformers``, as its users run it. ``torch.export`` would need free
    axes for batch, sequence and cache at once, which many architectures do not trace with.

    Args:
        model: The model, in eval mode.
        folder: Where to write ``model.pt2``, or a folder ``pytorch`` with ``model.safetensors``.

    Returns:
        What was written; its path is relative to ``folder``.

    Raises:
        ExportError: ``torch.export`` cannot trace the model.
    """
    from compressor.model.huggingface import HuggingFaceModule

    if not isinstance(model.module, HuggingFaceModule):
        return export_program(model, folder / "model.pt2")
    from compressor.model.hf_load import save_folder

    weights, outputs = save_folder(model, folder / "pytorch")
    return Artifact(
        path=str(weights.relative_to(folder)),
        format="safetensors",
        sha256=sha256_of(weights),
        size_bytes=weights.stat().st_size,
        inputs=model.inputs,
        outputs=outputs,
        opset=None,
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        steps=(*model.steps, Step("export", {"format": "safetensors"})),
    )


def export_onnx(model: TorchModel, target: Path) -> Artifact:
    """Write the model as ONNX, through PyTorch's dynamo exporter; a Hugging Face model through ``optimum-onnx``.

    Args:
        model: The model, in eval mode; axes whose size is ``None`` in its inputs stay free.
        target: The ``.onnx`` file to write; weights go to ``NAME.onnx.data`` beside it if they exceed
            :data:`~compressor.onnx_file.INLINE_LIMIT_BYTES`.

    Returns:
        What was written; its path is the file's name.

    Raises:
        ExportError: The model cannot be traced, or holds an operator that ONNX does not have.
    """
    import torch

    from compressor.model.huggingface import HuggingFaceModule

    if isinstance(model.module, HuggingFaceModule):
        from compressor.export_hf import write_onnx

        write_onnx(model, target, OPSET)
        return describe_onnx(target, (*model.steps, Step("export", {"format": "onnx", "opset": OPSET})), target.parent)
    program = trace(model)
    try:
        with quiet_export():
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=[x.name for x in model.inputs], verbose=False
            )
    except Exception as error:  # the exporter's own errors share no public base
        raise _onnx_error(error, program, model.name) from error
    if exported is None:  # only an exporter with an older interface returns nothing
        raise ExportError("the exporter returned nothing", where=model.name, mend="report it with the model")
    proto = canonical(exported.model_proto, set(program.state_dict), model.inputs)
    save_onnx(proto, target)
    return describe_onnx(target, (*model.steps, Step("export", {"format": "onnx", "opset": OPSET})), target.parent)


def check_parity(
    reference: Runnable, session: Runnable, inputs: Arrays, *, reference_name: str, tolerance: float | None
) -> Parity:
    """Run two sessions on the same inputs and compare all their outputs.

    Args:
        reference: The session that is right by definition.
        session: The session to check.
        inputs: One array per model input, ``(N, …)`` each.
        reference_name: What the report calls the reference.
        tolerance: Bound on the relative error of each output (norm of the difference over norm of the reference);
            ``None`` to only record it.

    Returns:
        How far they are apart; ``relative`` is that of the worst output.

    Raises:
        ExportError: They are further apart than ``tolerance``, differ in number or shape of outputs, or an output
            is not finite.
    """
    count = len(inputs[0])
    expected, found = _outputs(reference, inputs), _outputs(session, inputs)
    shapes, others = [x.shape for x in expected], [x.shape for x in found]
    if shapes != others:
        raise ExportError(f"outputs have the shapes {others}, those of {reference_name} {shapes}", where="parity")
    max_abs = relative = 0.0
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        for who, values in ((reference_name, a), ("the exported model", b)):
            if not np.isfinite(values).all():
                raise ExportError(
                    f"output {index} of {who} is not finite", where="parity", mend="check the inputs and the weights"
                )
        if a.size:
            max_abs = max(max_abs, float(np.abs(a - b).max()))
            size, distance = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
            relative = max(relative, distance / size if size else (0.0 if distance == 0 else float("inf")))
    scores = expected[0].ndim == 2 and expected[0].shape[1] > 1 and np.issubdtype(expected[0].dtype, np.floating)
    same = float(np.mean(expected[0].argmax(1) == found[0].argmax(1))) if scores else None
    if tolerance is not None and relative > tolerance:
        raise ExportError(
            f"outputs differ from {reference_name} by {relative:.3g} (relative), more than {tolerance:.3g}",
            where="parity",
            mend="the model may behave differently when traced (random numbers, Python branches on its input)",
        )
    return Parity(reference_name, count, max_abs, relative, same, tolerance)


def sha256_of(path: Path) -> str:
    """Hash an artifact: the file, and for ONNX its external data files after it, in name order.

    Raises:
        ModelError: An ONNX file that cannot be read, or whose data file is missing.
    """
    digest = hashlib.sha256()
    for file in [path, *(external_files(path) if path.suffix == ".onnx" else ())]:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def describe_onnx(path: Path, steps: tuple[Step, ...], root: Path | None = None) -> Artifact:
    """Say what an ONNX file holds.

    Args:
        path: The file, its external data beside it.
        steps: How it came about.
        root: Folder that the record's path is relative to; the file's own if ``None``.

    Returns:
        The record; hash and size cover the external data.

    Raises:
        ModelError: The file is not ONNX, or its external data are missing or outside its folder.
    """
    files = sorted((path, *external_files(path)), key=lambda file: file.name)
    proto = load_outline(path)
    weights = {tensor.name for tensor in proto.graph.initializer}
    return Artifact(
        path=str(path.relative_to(root or path.parent)),
        format="onnx",
        sha256=sha256_of(path),
        size_bytes=sum(file.stat().st_size for file in files),
        inputs=tuple(_spec(value) for value in proto.graph.input if value.name not in weights),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        opset=next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")),
        parameters=_count_parameters(proto.graph),
        steps=steps,
        macs=count_macs(proto),
    )


def _count_parameters(graph: onnx.GraphProto) -> int:
    """Number of weights, packed ones one by one; scales, zero points, shapes and axes are none."""
    import onnx

    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    dynamic = {node.output[1] for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    others = {
        tensor.name for tensor in graph.initializer if not tensor.dims or tensor.data_type == onnx.TensorProto.INT64
    }
    for node in graph.node:
        if node.op_type.endswith("eLinear"):
            others.update(node.input[1:])
        elif node.op_type == "MatMulNBits":
            others.update(node.input[2:5])  # 5 is the bias
            sizes[node.input[1]] = math.prod(each.i for each in node.attribute if each.name in ("K", "N"))
        elif node.op_type == "MatMulInteger":
            others.update(node.input[2:])
        elif node.op_type == "Mul" and not dynamic.isdisjoint(node.input):
            others.update(node.input)
        elif node.op_type == "Gather" and shapes.get(node.input[0], ())[1:] == (1,):  # of an embedding's rows
            others.add(node.input[0])
    return sum(size for name, size in sizes.items() if name not in others)


def counted(artifact: Artifact, file: Path, examples: Arrays) -> Artifact:
    """Count an ONNX file's arithmetic for examples of the shapes that are run, where the file leaves sizes free.

    Args:
        artifact: The file's record.
        file: The file.
        examples: One array per input, ``(N, …)`` each.

    Returns:
        The record with its count; as it is where it has one, or none can be made.
    """
    if artifact.macs is not None:
        return artifact
    shapes = tuple(x.shape[1:] for x in examples)
    sizes = {spec.name: shape for spec, shape in zip(artifact.inputs, shapes, strict=True)}
    macs = count_macs(load_outline(file), sizes)
    return artifact if macs is None else replace(artifact, macs=macs, macs_shapes=shapes)


def _onnx_error(error: Exception, program: ExportedProgram, name: str) -> ExportError:
    """Name the operator that ONNX does not have, and the line of the model that calls it."""
    text = f"{error} {error.__cause__ or ''}"
    found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    if not found:
        return ExportError(f"cannot become ONNX: {first_line(text)}", where=name, mend="report it with the model")
    operator = found[1].replace(".", "::")
    node = next((node for node in program.graph.nodes if str(node.target).startswith(found[1])), None)
    line = node_line(node) if node is not None else None
    where = f"{name}, {line}" if line else name
    return ExportError(
        f"ONNX has no operator for {operator}",
        where=where,
        mend="write it with standard torch operations, or move it out of the model",
    )


def _outputs(session: Runnable, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
    """All outputs over all examples, in calls of the model's own batch size if that is fixed."""
    count = len(inputs[0])
    fixed = session.inputs[0].shape[0] if session.inputs[0].shape else None
    size = fixed or PARITY_BATCH
    # A last call that would be too small for a fixed batch starts again from the first example.
    ends = -(-count // size) * size if fixed else count
    order = np.arange(ends) % count
    calls = [session.run(tuple(x[order[i : i + size]] for x in inputs)) for i in range(0, ends, size)]
    return tuple(
        np.concatenate([np.atleast_1d(call[index]) for call in calls])[: count if fixed else None]
        for index in range(len(calls[0]))
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)
