"""ONNX files: checked, and kept from reading data elsewhere on the disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.signature import one_line
from compressor.results import TensorSpec

# What ONNX Runtime brings along without a library of custom operators.
_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
    }
)


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX file.

    Attributes:
        proto: The ``ModelProto``, without its external data.
        inputs: Its inputs, without those that have a value in the file.
        outputs: Its outputs, up to the first whose rank the file does not tell.
        external: The files beside it that hold weights, in name order.
    """

    proto: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external: tuple[Path, ...]


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file; its external data are looked for but not read.

    Args:
        path: The file; :func:`~compressor.model.identify.identify` called it ONNX.

    Raises:
        UnsafeFileError: External data outside its folder, or operators that need a library of custom operators.
        ModelError: Damaged, against ONNX's rules, or external data that are missing.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        proto = onnx.load(str(path), load_external_data=False, format="protobuf")
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot be read as ONNX: {one_line(error)}", where=path, mend="copy or download it again"
        ) from error
    external = _external_files(path, proto)
    known = _DOMAINS | {function.domain for function in proto.functions}
    for node in walk_nodes(proto):
        if node.domain not in known:
            raise UnsafeFileError(
                f"uses the operator '{node.op_type}' of the domain '{node.domain}', which needs a custom library",
                where=path,
                mend="export it with ONNX's own operators",
            )
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"breaks ONNX's rules: {one_line(error)}", where=path, mend="export it anew") from error
    return OnnxFile(proto, _inputs(path, proto), _outputs(proto), external)


def _external_files(path: Path, proto: Any) -> tuple[Path, ...]:
    import onnx

    folder = path.resolve().parent
    found: set[Path] = set()
    for tensor in walk_tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder) or "\\" in location:
            raise UnsafeFileError(
                f"the data of '{tensor.name}' are outside its folder ('{location}')",
                where=path,
                mend="export it anew with its data beside it",
            )
        if not file.is_file():
            raise ModelError(
                f"its weights are in '{location}', which is missing", where=path, mend="copy that file beside it"
            )
        needed = _number(path, entries.get("offset", "0")) + _number(path, entries.get("length", "0"))
        if needed > file.stat().st_size:
            raise ModelError(
                f"its weights in '{location}' are truncated ({file.stat().st_size:,} bytes of at least {needed:,})",
                where=path,
                mend="copy or download that file again",
            )
        found.add(file)
    return tuple(sorted(found))


def _number(path: Path, text: str) -> int:
    if not text.isdecimal():
        raise ModelError(f"its external data are at '{text}', which is no number", where=path, mend="export it anew")
    return int(text)


def walk_graphs(proto: Any) -> Iterator[Any]:
    """Every graph of a model: the main one, those of training, and those inside nodes; then its functions."""
    pending = [proto.graph, *(g for info in proto.training_info for g in (info.algorithm, info.initialization))]
    pending += list(proto.functions)
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending.extend(attribute.graphs)
                if attribute.HasField("g"):
                    pending.append(attribute.g)


def walk_nodes(proto: Any) -> Iterator[Any]:
    """Every node of every graph and function."""
    for graph in walk_graphs(proto):
        yield from graph.node


def walk_tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of every graph: initializers, sparse ones, and those in attributes."""
    for graph in walk_graphs(proto):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        defaults = getattr(graph, "attribute_proto", ())
        for attribute in [*(a for node in graph.node for a in node.attribute), *defaults]:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for sparse in [
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] * attribute.HasField("sparse_tensor")),
            ]:
                yield from (sparse.values, sparse.indices)


def _inputs(path: Path, proto: Any) -> tuple[TensorSpec, ...]:
    given = {tensor.name for tensor in proto.graph.initializer}
    specs: list[TensorSpec] = []
    for value in proto.graph.input:
        if value.name in given:
            continue
        if not _is_ranked(value):
            raise ModelError(f"its input '{value.name}' is no tensor of a known rank", where=path)
        specs.append(_spec(value))
    if not specs:
        raise ModelError("has no inputs", where=path)
    return tuple(specs)


def _outputs(proto: Any) -> tuple[TensorSpec, ...]:
    return tuple(map(_spec, itertools.takewhile(_is_ranked, proto.graph.output)))


def _is_ranked(value: Any) -> bool:
    return bool(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"))


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)
