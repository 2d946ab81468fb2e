"""Reading ``.npy`` and ``.npz`` files: never a pickle, never more bytes than the file honestly holds.

The file formats are NumPy's (NEP 1): a ``.npz`` is a zip of ``.npy`` members.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.base import Examples
from compressor.task.parts import Parts, gather

# Deflate can reach 1032:1, and real masks or blank pictures come close, but not over gigabytes.
_BOMB_BYTES = 2**30
_BOMB_RATIO = 100


def read_npy(path: Path, where: str) -> Parts:
    """Map a ``.npy`` file of inputs into memory.

    Targets are read from ``NAME_y.npy`` beside it, else from ``y.npy`` beside it, else there are none.

    Args:
        path: The file.
        where: The data as the user named them.

    Raises:
        DataError: Not a ``.npy`` file, or one that holds Python objects.
    """
    x = _mapped(path)
    for beside in (path.with_name(f"{path.stem}_y.npy"), path.with_name("y.npy")):
        if beside.is_file() and beside != path:
            return Parts({"all": Examples((x,), _mapped(beside))}, where, (f"targets read from {beside.name}",))
    return Parts({"all": Examples((x,), None)}, where, (f"no targets: no {path.stem}_y.npy or y.npy beside it",))


def read_npz(path: Path, inputs: tuple[TensorSpec, ...] | None, where: str) -> Parts:
    """Read a ``.npz`` file.

    Args:
        path: The file.
        inputs: The model's inputs, whose names may be keys.
        where: The data as the user named them.

    Raises:
        DataError: Not a ``.npz`` file, one that holds Python objects, one that unpacks to far more than it is, or one
            without inputs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    # zipfile's RuntimeError is a password, its NotImplementedError a packing it does not know.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, OSError) as error:
        raise DataError(f"is not a readable .npz file ({error})", where=path) from error
    return gather(arrays, inputs, where)


def _mapped(path: Path) -> NDArray[np.generic]:
    try:
        with path.open("rb") as file:
            _check_member(file, path.stat().st_size, path, path.name)
        # Copy on write: torch refuses to share an array that is not writable, and the file must stay as it is.
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"is not a readable .npy file ({error})", where=path) from error


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    unpacked, packed = sum(m.file_size for m in members), max(sum(m.compress_size for m in members), 1)
    if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * packed:
        raise DataError(
            f"unpacks to {unpacked / 2**30:.1f} GiB, {unpacked // packed} times its size: refused as a zip bomb",
            where=path,
            mend="save it with numpy.savez (not compressed) if it is what it should be",
        )
    for member in members:
        if not member.filename.endswith(".npy"):
            raise DataError(f"holds {member.filename}, which is not an array", where=path)
        with archive.open(member) as file:
            _check_member(file, member.file_size, path, member.filename.removesuffix(".npy"))


def _check_member(file: IO[bytes], size_bytes: int, path: Path, key: str) -> None:
    """Read the header alone: an object array is a pickle, and a huge shape would be allocated before it is read."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError(
            f"{key} is an array of Python objects, which only a pickle can hold",
            where=path,
            mend="save it as numbers or text: array.astype(float), array.astype(str)",
        )
    needed = math.prod(shape) * dtype.itemsize
    if needed > (held := size_bytes - file.tell()):
        raise DataError(f"{key} should hold {needed} bytes and has {held}", where=path, mend="save it again")
