"""ONNX files: named after the model's layers, written whole or not at all.

Export writes them and methods rewrite them; both do it here.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import ModelError, UnsafeFileError
from compressor.results import TensorSpec

if TYPE_CHECKING:
    import onnx

INLINE_LIMIT_BYTES = 1_800_000_000
"""Weights above this go to ``NAME.onnx.data``: a protobuf file ends at 2 GB."""


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


def is_large(proto: onnx.ModelProto) -> bool:
    """Whether a model's weights, in memory, exceed :data:`INLINE_LIMIT_BYTES`."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > INLINE_LIMIT_BYTES


def save_onnx(proto: onnx.ModelProto, target: Path) -> None:
    """Write a model whose weights are in memory.

    Args:
        proto: The model; unchanged unless its weights go to a second file, when it is left pointing there.
        target: The file; weights above :data:`INLINE_LIMIT_BYTES` go to ``NAME.onnx.data`` beside it.
    """
    import onnx

    with staged(target) as path:
        if is_large(proto):
            onnx.save_model(
                proto, str(path), save_as_external_data=True, location=f"{target.name}.data", size_threshold=1024
            )
        else:
            path.write_bytes(proto.SerializeToString(deterministic=True))


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
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is no public name
        raise ModelError(f"not an ONNX file: {error}", where=path, mend="give a file that ONNX wrote") from error
    folder = path.parent.resolve()
    names = {
        entry.value for tensor in _tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"
    }
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
    import onnx

    external_files(source)
    save_onnx(onnx.load(str(source)), target)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All weights and constants, those of branches and loop bodies included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
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
    taken: set[str] = set(kept) | {value.name for value in graph.input}
    renamed: dict[str, str] = {}
    for index, value in enumerate(graph.output):
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
