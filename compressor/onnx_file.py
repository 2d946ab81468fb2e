"""ONNX files: named after the model's layers, written whole or not at all.

Export writes them and methods rewrite them; both do it here.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from compressor.errors import ModelError, UnsafeFileError
from compressor.onnx_wire import (
    APART_BYTES,
    GRAPH,
    INITIALIZER,
    RAW_DATA,
    field_head,
    frame,
    is_apart,
    place_of,
    point,
    pour,
    read_model,
    size_of,
)
from compressor.results import TensorSpec

if TYPE_CHECKING:
    import onnx

INLINE_LIMIT_BYTES = 1_800_000_000
"""Weights above this go to ``NAME.onnx.data``: a protobuf file ends at 2 GB."""

PAGE_BYTES = 4096
"""Weights in a second file begin at multiples of this, so that they can be mapped."""


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Write beside a file and rename, so that a failure leaves nothing behind.

    Args:
        target: The file to write; its folder exists.

    Yields:
        A path of the same name in a new folder beside it; every file written there is moved at the end, ``target``
        last.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder / target.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            os.replace(file, target.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_onnx(proto: onnx.ModelProto, target: Path) -> None:
    """Write a model in full, weight by weight, so that no second copy of them is in memory.

    Args:
        proto: The model, weights in memory or, as :func:`load_outline` leaves them, in files; unchanged.
        target: The file; weights above :data:`INLINE_LIMIT_BYTES` go to ``NAME.onnx.data`` beside it.
    """
    with staged(target) as path:
        _write(proto, path, apart=weight_bytes(proto) > INLINE_LIMIT_BYTES)


def save_draft(proto: onnx.ModelProto, target: Path) -> None:
    """Write a model that lies between two others: weights that are in files of its folder already stay there.

    Args:
        proto: The model; unchanged.
        target: The file; weights in memory go to ``NAME.onnx.data`` beside it.
    """
    _write(proto, target, apart=True, shared=target.parent.resolve())


def load_outline(path: Path) -> onnx.ModelProto:
    """Read a model, but leave its larger weights in their files, the model's own or a second one.

    Args:
        path: The ONNX file; it stays where it is for as long as the outline is used.

    Returns:
        The model. Weights in files name them by their whole path: read them with
        :func:`~compressor.onnx_wire.array_of`.
    """
    from onnx.external_data_helper import load_external_data_for_tensor

    proto = read_model(path)
    folder = path.parent.resolve()
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(folder / entry.value)
    for node in proto.graph.node:
        for attribute in node.attribute:
            for tensor in _held(attribute):
                if is_apart(tensor):
                    load_external_data_for_tensor(tensor, str(folder))
                    tensor.data_location = tensor.DEFAULT
                    tensor.ClearField("external_data")
    return proto


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Size of a model's weights, in memory and in files."""
    return sum(size_of(tensor) for tensor in proto.graph.initializer)


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold weights of it.

    Args:
        path: The ONNX file.

    Returns:
        The files, sorted; empty if all weights are inside.

    Raises:
        ModelError: It is not ONNX, or such a file is missing.
        UnsafeFileError: It points outside its folder.
    """
    try:
        proto = read_model(path)
    except Exception as error:  # protobuf's DecodeError is no public name
        raise ModelError(f"not an ONNX file: {error}", where=path, mend="give a file that ONNX wrote") from error
    folder = path.parent.resolve()
    names = {
        entry.value for tensor in _tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"
    }
    names.discard(str(path.resolve()))  # what is inside the file itself
    files = []
    for name in sorted(names):
        file = (folder / name).resolve()
        if folder not in file.parents:
            raise UnsafeFileError(f"its weights are outside its folder, in {name}", where=path)
        if not file.is_file():
            raise ModelError(f"its weights are in {name}, which is not there", where=path, mend="put it beside")
        files.append(path.parent / name)
    return tuple(files)


def copy_onnx(source: Path, target: Path) -> None:
    """Copy a model with its weights, wherever it keeps them.

    Args:
        source: The model; external data beside it.
        target: The file to write, as :func:`save_onnx` would.

    Raises:
        ModelError: It is not ONNX, or weights are missing.
        UnsafeFileError: It points outside its folder.
    """
    external_files(source)
    save_onnx(load_outline(source), target)


def _write(proto: onnx.ModelProto, path: Path, *, apart: bool, shared: Path | None = None) -> None:
    """Write a model piece by piece.

    A message within another is a tag, a length and the content (Protocol Buffers, "Encoding"); the parts of a graph may
    come in any order, so the weights are written one by one behind the rest of it.
    """
    import onnx

    data = path.with_name(f"{path.name}.data")
    parts: list[tuple[bytes, onnx.TensorProto | None, int]] = []  # bytes, the tensor that follows them, its bytes
    with ExitStack() as stack:
        second: BinaryIO | None = None
        for tensor in proto.graph.initializer:
            size = size_of(tensor)
            if not is_apart(tensor) and not (apart and tensor.HasField("raw_data") and size >= APART_BYTES):
                parts.append((field_head(INITIALIZER, tensor.ByteSize()), tensor, tensor.ByteSize()))
                continue
            head = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            if apart and size >= APART_BYTES:
                place = place_of(tensor) if is_apart(tensor) else None
                if place is None or place[0].parent != shared:
                    second = second or stack.enter_context(data.open("wb"))
                    second.seek(-(-second.tell() // PAGE_BYTES) * PAGE_BYTES)
                    place = data, second.tell(), size
                    pour(tensor, second)
                point(head, place[0].name, *place[1:])
                content = head.SerializeToString(deterministic=True)
                parts.append((field_head(INITIALIZER, len(content)) + content, None, 0))
            else:
                content = head.SerializeToString(deterministic=True) + field_head(RAW_DATA, size)
                parts.append((field_head(INITIALIZER, len(content) + size) + content, tensor, size))
    graph = frame(proto.graph, "initializer").SerializeToString(deterministic=True)
    with path.open("wb") as out:
        out.write(frame(proto, "graph").SerializeToString(deterministic=True))
        out.write(field_head(GRAPH, len(graph) + sum(len(head) + size for head, _, size in parts)) + graph)
        for begin, tensor, _ in parts:
            out.write(begin)
            if tensor is not None and is_apart(tensor):
                pour(tensor, out)
            elif tensor is not None:
                out.write(tensor.SerializeToString(deterministic=True))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All weights and constants, those of branches and loop bodies included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _held(attribute)


def _held(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    """The tensors in an attribute."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("g"):
        yield from _tensors(attribute.g)
    for inner in attribute.graphs:
        yield from _tensors(inner)


def canonical(proto: onnx.ModelProto, kept: set[str], inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """Name everything after the model's layers and drop what the exporter noted down about this machine.

    Args:
        proto: The exporter's result; changed in place.
        kept: Names of the model's own weights.
        inputs: The model's inputs.

    Returns:
        The same model: nodes are called ``layer/Operator``, their outputs likewise, weights as in the model.
    """
    graph = proto.graph
    given = {value.name for value in graph.input}
    for index in reversed(range(len(graph.node))):
        if given.intersection(graph.node[index].output):
            del graph.node[index]
    taken: set[str] = set(kept) | given
    renamed: dict[str, str] = {}
    for index, value in enumerate(graph.output):
        if value.name in given:  # the exporter writes an input that is returned as it came as x = Identity(x)
            graph.node.add(op_type="Identity", input=[value.name], output=[f"{value.name}/{index}"])
            value.name = f"{value.name}/{index}"
        renamed[value.name] = _free("output" if len(graph.output) == 1 else f"output_{index}", taken)
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        layer = _layer(node, kept)
        node.name = _free(f"{layer}/{node.op_type}" if layer else node.op_type, taken)
        for index, name in enumerate(node.output):
            if name and name not in renamed:
                renamed[name] = _free(node.name if index == 0 else f"{node.name}.{index}", taken, owner=node.name)
        for index, name in enumerate(node.input):
            if name in weights and name not in kept and name not in renamed:
                renamed[name] = _free(f"{node.name}.constant_{index}", taken)
    for value in graph.output:
        value.name = renamed[value.name]
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    _rename(graph, renamed)
    _strip(proto, graph)
    for value, spec in zip(graph.input, inputs, strict=True):
        for axis, size in enumerate(spec.shape):
            if size is None:
                value.type.tensor_type.shape.dim[axis].dim_param = "batch" if axis == 0 else f"{spec.name}_{axis}"
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")  # the exporter's symbols, such as s77 or 2*s77
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].WhichOneof("value") is None:
            dims[0].dim_param = "batch"
    return proto


def _layer(node: onnx.NodeProto, kept: set[str]) -> str:
    """The layer that a node belongs to: the one whose weight it takes, else where the exporter saw it being called."""
    for name in node.input:
        if name in kept and "." in name:
            return name.rpartition(".")[0]
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [scope for scope in re.findall(r"'([^']*)'", entry.value)[:-1] if scope]
            return scopes[-1] if scopes else ""
    return ""


def _free(name: str, taken: set[str], owner: str | None = None) -> str:
    """Make a name unique; a node's first output may share the node's own name."""
    if name == owner:
        return name
    candidate, count = name, 2
    while candidate in taken:
        candidate = f"{name}_{count}"
        count += 1
    taken.add(candidate)
    return candidate


def _rename(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    """Rename tensors where they are used, in branches and loop bodies too."""
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, renamed)


def _strip(proto: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Drop stack traces, paths, notes and intermediate shapes, which ONNX tools infer again."""
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    for part in [graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    graph.name = "model"
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("g"):
                _strip(proto, attribute.g)
