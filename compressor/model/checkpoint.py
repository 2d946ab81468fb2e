"""Checkpoint folders: safetensors files, one or several with an index, read by header and by slice.

Files are read with ordinary reads and never mapped: what was mapped counts as resident until the system takes it back,
and a checkpoint may be larger than memory. The format is that of the safetensors documentation: eight bytes with the
header's length (little endian), the header in JSON, the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.hf_folder import INDEX
from compressor.model.hf_folder import WEIGHTS as SINGLE

HEADER_LIMIT_BYTES = 100 * 2**20
"""Longest header; the bound of the safetensors library."""

# fmt: off
ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "C64": 8, "U64": 8, "I64": 8, "F64": 8,
}
# fmt: on
FLOATS = ("BF16", "F16", "F32", "F64")
_NUMPY = {"U8": "u1", "I8": "i1", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes are.

    Attributes:
        name: Its name in the file.
        file: The safetensors file.
        dtype: Element type as the format writes it, e.g. ``BF16``.
        shape: Its shape.
        offset: First byte in the file.
        size_bytes: Number of bytes.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read a safetensors file's header and hold it against the file's size.

    Args:
        path: The file.

    Returns:
        The tensors by name, in the order of their bytes.

    Raises:
        ModelError: The header is no such, or the file is shorter or longer than it says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT_BYTES):
                raise ModelError(
                    "is cut off within its safetensors header, or is no such file", where=path, mend=_AGAIN
                )
            raw = file.read(length)
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=path) from error
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise ModelError(f"has a damaged safetensors header ({error})", where=path, mend=_AGAIN) from error
    if not isinstance(header, dict):
        raise ModelError("has a damaged safetensors header (no table of tensors)", where=path, mend=_AGAIN)
    start = 8 + length
    found = [_stored(name, entry, path, start) for name, entry in header.items() if name != "__metadata__"]
    found.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    end = start
    for tensor in found:
        if tensor.offset != end:
            raise ModelError(f"has a gap or an overlap in front of tensor '{tensor.name}'", where=path, mend=_AGAIN)
        end += tensor.size_bytes
    if end != size:
        what = (
            f"is cut off: {end - size} of {end} bytes are missing" if size < end else f"has {size - end} bytes too many"
        )
        raise ModelError(what, where=path, mend=_AGAIN)
    return {tensor.name: tensor for tensor in found}


def _stored(name: str, entry: Any, path: Path, start: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"has no shape, type and place for tensor '{name}'", where=path, mend=_AGAIN) from error
    if dtype not in ITEM_BYTES:
        raise ModelError(f"tensor '{name}' is of the unknown type {dtype!r}", where=path)
    if not sound or end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ModelError(
            f"tensor '{name}' is {dtype} {list(shape)} and has the bytes {begin} to {end}, which disagree",
            where=path,
            mend=_AGAIN,
        )
    return StoredTensor(name, path, dtype, shape, start + begin, end - begin)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint: the one, which ``transformers`` prefers too, or those the index names.

    Args:
        folder: Holds ``model.safetensors``, or several files and ``model.safetensors.index.json``.

    Raises:
        ModelError: There are no such files, or one is missing.
        UnsafeFileError: The index names a file outside the folder.
    """
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(f"holds neither {SINGLE} nor {INDEX}", where=folder, mend="name a checkpoint's folder")
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UnsafeFileError(f"names {name!r}, which is no safetensors file beside it", where=index)
        if not (folder / name).is_file():
            raise ModelError(f"names {name}, which is not there", where=index, mend="download the folder whole")
    return tuple(folder / name for name in names)


def open_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of all safetensors files of a checkpoint.

    Args:
        folder: As for :func:`weight_files`.

    Returns:
        The tensors by name, file by file in the order of their bytes.

    Raises:
        ModelError: There are no such files, one is missing or damaged, or the index disagrees with them.
        UnsafeFileError: The index names a file outside the folder.
    """
    files = weight_files(folder)
    if files == (folder / SINGLE,):
        found = read_header(files[0])
        if not found:
            raise ModelError("is a safetensors file without tensors", where=files[0])
        return found
    index = folder / INDEX
    weight_map = _weight_map(index)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in read_header(file).values():
            if weight_map.get(tensor.name) != file.name:
                raise ModelError(
                    f"does not say that tensor '{tensor.name}' is in {file.name}", where=index, mend=_AGAIN
                )
            tensors[tensor.name] = tensor
    if absent := [name for name in weight_map if name not in tensors]:
        raise ModelError(
            f"says that tensor '{absent[0]}' is in {weight_map[absent[0]]}, and it is not", where=index, mend=_AGAIN
        )
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        sound = bool(weight_map) and all(isinstance(x, str) for pair in weight_map.items() for x in pair)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("is no index of safetensors files", where=index, mend=_AGAIN) from error
    if not sound:
        raise ModelError("is no index of safetensors files", where=index, mend=_AGAIN)
    return dict(weight_map)


def read_into(tensor: StoredTensor, start: int, target: memoryview) -> None:
    """Fill a buffer with bytes of a tensor.

    Args:
        tensor: The tensor.
        start: First byte within it.
        target: The buffer; its length says how many bytes.

    Raises:
        ModelError: The file has become shorter, or cannot be read.
    """
    try:
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset + start)
            done = 0
            while done < len(target):
                count = file.readinto(target[done:])
                if not count:
                    raise ModelError("has become shorter while it was read", where=tensor.file)
                done += count
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=tensor.file) from error


def read_rows(tensor: StoredTensor, start: int, stop: int) -> NDArray[np.float32]:
    """Read some rows of a matrix of floats.

    Args:
        tensor: ``(rows, columns)``, of one of :data:`FLOATS`.
        start: First row.
        stop: The row behind the last.

    Returns:
        ``(stop - start, columns)``; bfloat16 and float16 become float32 exactly, float64 is rounded.

    Raises:
        ModelError: The file cannot be read.
    """
    columns = tensor.shape[1]
    row_bytes = columns * ITEM_BYTES[tensor.dtype]
    raw = np.empty((stop - start) * columns, _NUMPY[tensor.dtype])
    read_into(tensor, start * row_bytes, raw.data.cast("B"))
    if tensor.dtype == "BF16":
        # The upper half of a float32.
        found = np.left_shift(raw.astype(np.uint32), np.uint32(16)).view(np.float32)
    else:
        found = raw.astype(np.float32, copy=False)
    return found.reshape(stop - start, columns)
