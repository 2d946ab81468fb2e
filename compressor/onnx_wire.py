"""Weights of ONNX files without the files in memory: where they are, how they are read, how a model is cut into pieces.

A message of Protocol Buffers is a row of fields, each a tag, for texts and inner messages a length, and the content
("Encoding", Protocol Buffers documentation). So a weight inside a file can be named by its place, as one in a second
file is, and a model can be written weight by weight.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from compressor.errors import ModelError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

RAW_DATA, INITIALIZER, GRAPH = 9, 5, 7
"""Numbers of fields of TensorProto, GraphProto and ModelProto in ``onnx.proto``."""

APART_BYTES = 1024
"""Smaller weights stay with the rest of the model."""

PIECE_BYTES = 2**24
"""Read at a time when weights are copied."""


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its larger weights: those inside it are named by their place, like external ones.

    Args:
        path: The file.

    Returns:
        The model. Weights in a second file are as the file has them.

    Raises:
        Exception: As ``onnx.load``, if it is no ONNX file.
    """
    import onnx

    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _walked(data, path.resolve())
    except Exception:  # protobuf's DecodeError is no public name; the library says what is wrong with the file
        return onnx.load(str(path), load_external_data=False)


def _walked(data: mmap.mmap, path: Path) -> onnx.ModelProto:
    import onnx

    around, graphs = _split(data, 0, len(data), GRAPH)
    if len(graphs) != 1:
        raise ValueError("not one graph")
    rest, tensors = _split(data, *graphs[0], INITIALIZER)
    model = onnx.ModelProto.FromString(around)
    model.graph.MergeFromString(rest)
    for begin, end in tensors:
        content, values = _split(data, begin, end, RAW_DATA)
        if len(values) == 1 and values[0][1] - values[0][0] >= APART_BYTES:
            tensor = onnx.TensorProto.FromString(content)
            point(tensor, str(path), values[0][0], values[0][1] - values[0][0])
            model.graph.initializer.append(tensor)
        else:
            model.graph.initializer.append(onnx.TensorProto.FromString(data[begin:end]))
    return model


def _split(data: mmap.mmap, begin: int, end: int, number: int) -> tuple[bytes, list[tuple[int, int]]]:
    """A message without one of its fields, and where that field's contents begin and end."""
    others, found = [], []
    for which, start, content, stop in _fields(data, begin, end):
        if which == number:
            found.append((content, stop))
        else:
            others.append(data[start:stop])
    return b"".join(others), found


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field of a message, and where it, its content and the next one begin."""
    at = begin
    while at < end:
        tag, content = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            stop = _varint(data, content)[1]
        elif kind == 2:
            size, content = _varint(data, content)
            stop = content + size
        elif kind in (1, 5):
            stop = content + (8 if kind == 1 else 4)
        else:
            raise ValueError("no such kind of field")
        if stop > end:
            raise ValueError("a field ends behind its message")
        yield tag >> 3, at, content, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number and where what follows it begins."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def array_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    """The values of a weight, wherever they are."""
    import numpy as np
    from onnx import helper, numpy_helper

    if not is_apart(tensor):
        return numpy_helper.to_array(tensor)
    file, offset, _ = place_of(tensor)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    # Not mapped: what is read once would count as memory for as long as the array lives.
    return np.fromfile(file, kind, count=math.prod(tensor.dims), offset=offset).reshape(tuple(tensor.dims))


def field_head(number: int, size: int) -> bytes:
    """The tag and the length in front of a field's content."""
    made, rest = bytearray([number << 3 | 2]), size
    while rest >= 0x80:
        made.append(rest & 0x7F | 0x80)
        rest >>= 7
    made.append(rest)
    return bytes(made)


def frame(message: Any, without: str) -> Any:
    """A copy of a protobuf message without one of its fields."""
    frame = type(message)()
    for field in message.DESCRIPTOR.fields:
        if field.name == without:
            continue
        value = getattr(message, field.name)
        if field.is_repeated:
            getattr(frame, field.name).extend(value)
        elif message.HasField(field.name) and field.message_type is not None:
            getattr(frame, field.name).CopyFrom(value)
        elif message.HasField(field.name):
            setattr(frame, field.name, value)
    return frame


def is_apart(tensor: onnx.TensorProto) -> bool:
    """Whether a weight's values are in a file and not in memory."""
    return bool(tensor.data_location == tensor.EXTERNAL)


def is_inside(tensor: onnx.TensorProto, path: Path) -> bool:
    """Whether :func:`read_model` left a weight inside the model's own file."""
    return is_apart(tensor) and place_of(tensor)[0] == path.resolve()


def place_of(tensor: onnx.TensorProto) -> tuple[Path, int, int]:
    """The file that holds a weight, the first byte and how many."""
    found = {entry.key: entry.value for entry in tensor.external_data}
    file, offset = Path(found["location"]), int(found.get("offset", 0))
    return file, offset, int(found["length"]) if "length" in found else file.stat().st_size - offset


def point(tensor: onnx.TensorProto, file: str, offset: int, length: int) -> None:
    """Let a weight's values lie in a file."""
    tensor.data_location = tensor.EXTERNAL
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def size_of(tensor: onnx.TensorProto) -> int:
    """Bytes of a weight's values."""
    if is_apart(tensor):
        return place_of(tensor)[2]
    return len(tensor.raw_data) if tensor.HasField("raw_data") else tensor.ByteSize()


def pour(tensor: onnx.TensorProto, out: BinaryIO) -> None:
    """Write a weight's values, a piece at a time where they are in a file."""
    if not is_apart(tensor):
        out.write(tensor.raw_data)
        return
    file, offset, left = place_of(tensor)
    with file.open("rb") as stream:
        stream.seek(offset)
        while left and (piece := stream.read(min(left, PIECE_BYTES))):
            out.write(piece)
            left -= len(piece)
    if left:
        raise ModelError(f"weight '{tensor.name}' ends {left} bytes too early", where=file, mend="copy it anew")
