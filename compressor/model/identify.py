"""What kind of model a file holds, told by its content and never by its name, without loading it or importing torch."""

from __future__ import annotations

import difflib
import enum
import io
import json
import os
from pathlib import Path
from typing import BinaryIO

from compressor.errors import ModelError
from compressor.model import hf_folder
from compressor.model.archive import Archive, open_archive
from compressor.model.pickles import Item, PickleError, scan

_HEAD_BYTES = 4096
# What torch.save wrote before 1.6: pickle protocol 2, LONG1 of torch.serialization.MAGIC_NUMBER, STOP.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_SAFETENSORS_HEADER_LIMIT = 100_000_000
_FOREIGN = (
    (0, b"\x1f\x8b", "is gzip-compressed", "unpack it and name the model inside"),
    (0, b"\xfd7zXZ\0", "is xz-compressed", "unpack it and name the model inside"),
    (0, b"BZh", "is bzip2-compressed", "unpack it and name the model inside"),
    (0, b"7z\xbc\xaf", "is a 7z archive", "unpack it and name the model inside"),
    (257, b"ustar", "is a tar archive", "unpack it and name the model inside"),
    (0, b"\x89HDF\r\n", "is an HDF5 file, such as Keras writes", "convert it to ONNX"),
    (4, b"TFL3", "is a TensorFlow Lite model", "convert it to ONNX"),
    (4, b"PTMF", "is a TorchScript model for mobile (flatbuffer)", "save it with torch.jit.save or torch.export.save"),
    (4, b"ET1", "is an ExecuTorch program, already compiled for a device", "name the model that it was made from"),
    (0, b"GGUF", "is a GGUF model", "name the model that it was made from"),
    (0, b"\x93NUMPY", "is a NumPy array", "name the model, and give arrays with --data"),
    (0, b"\x7fELF", "is a program or library, not a model", None),
)


class FileKind(enum.Enum):
    """The kinds of model file; the value is what the user reads."""

    EXPORTED_PROGRAM = "exported program"
    TORCHSCRIPT = "TorchScript"
    STATE_DICT = "state dict"
    SAFETENSORS = "safetensors"
    PICKLED_MODULE = "pickled module"
    ONNX = "ONNX"
    HUGGING_FACE = "Hugging Face folder"

    @property
    def has_signature(self) -> bool:
        """Whether such a file says what goes into the model."""
        return self in {FileKind.EXPORTED_PROGRAM, FileKind.ONNX, FileKind.HUGGING_FACE}


def identify(path: Path) -> FileKind:
    """Tell the kind of a model file by its content.

    Args:
        path: The file, or the folder of a Hugging Face model; a link to one is fine.

    Returns:
        Its kind.

    Raises:
        ModelError: Missing, another folder, empty, unreadable, truncated, text, or of no known kind.
        UnsafeFileError: A zip archive that is a bomb, leads outside itself, or is encrypted.
    """
    if hf_folder.looks_like_model(path):
        return FileKind.HUGGING_FACE
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _zip_kind(open_archive(path))
        for offset, magic, what, mend in _FOREIGN:
            if head[offset : offset + len(magic)] == magic:
                raise ModelError(what, where=path, mend=mend)
        if _is_safetensors(path, head, size):
            return FileKind.SAFETENSORS
        if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5:
            return _pickle_kind(path, file, legacy=head.startswith(_LEGACY_MAGIC))
        _refuse_text(path, head)
        if _is_onnx(path, file, size):
            return FileKind.ONNX
    raise ModelError(
        f"is no kind of model that is known (it starts with the bytes {head[:8].hex(' ')})",
        where=path,
        mend=f"known: {', '.join(kind.value for kind in FileKind)}",
    )


def pickle_root(path: Path, content: bytes | None = None) -> Item:
    """Tell what ``torch.load`` would build from a file, without building it.

    Args:
        path: A file that ``torch.save`` wrote, or a plain pickle.
        content: Such a file found inside that one, to be read instead.

    Raises:
        ModelError: Its pickle is damaged, too large or too deep.
        UnsafeFileError: It is a zip bomb.
    """
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            head = file.read(len(_LEGACY_MAGIC))
            if head.startswith(b"PK"):
                archive = open_archive(path, content)
                if "data.pkl" not in archive.sizes:
                    raise PickleError("it holds no pickle")
                return scan(archive.read("data.pkl")).root
            file.seek(0)
            # The old format is the magic number, the protocol, facts of the machine, and then the object.
            for _ in range(3 if head == _LEGACY_MAGIC else 0):
                scan(file)
            return scan(file).root
    except PickleError as error:
        raise ModelError(str(error), where=path, mend="copy or download it again, or save it anew") from error


def _size(path: Path) -> int:
    if path.is_dir():
        endings = {".pt2", ".pt", ".pth", ".safetensors", ".onnx", ".gguf"}
        found = sorted(p.name for p in path.iterdir() if p.suffix in endings)
        # Such as a checkpoint of a training, or the transformer of an old sentence-transformers folder.
        found += sorted(p.name for p in path.iterdir() if hf_folder.looks_like_model(p))
        mend = "name the model file in it" + (f", e.g. {', '.join(found[:3])}" if found else "")
        raise ModelError("is a folder", where=path, mend=mend)
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.7)
        mend = f"did you mean '{path.parent / close[0]}'?" if close else "check the path"
        raise ModelError("no such file", where=path, mend=mend)
    if not path.is_file():
        raise ModelError("is not a regular file", where=path)
    if not os.access(path, os.R_OK):
        raise ModelError("may not be read", where=path, mend="change its permissions")
    size = path.stat().st_size
    if size == 0:
        raise ModelError("is empty (0 bytes)", where=path, mend="copy or download it again, or save it anew")
    return size


def _zip_kind(archive: Archive) -> FileKind:
    names = archive.sizes
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return FileKind.EXPORTED_PROGRAM
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return FileKind.TORCHSCRIPT
    if "data.pkl" in names:
        return _root_kind(archive.path, pickle_root(archive.path))
    raise ModelError(
        "is a zip archive, but not one that torch wrote",
        where=archive.path,
        mend="if it holds a model, unpack it and name the model inside",
    )


def _pickle_kind(path: Path, file: BinaryIO, *, legacy: bool) -> FileKind:
    if legacy:
        return _root_kind(path, pickle_root(path))
    file.seek(0)
    try:
        scan(file)
    except PickleError as error:
        raise ModelError(str(error), where=path, mend="copy or download it again, or save it anew") from error
    # Not torch's own format: whatever it builds, only Python's unpickler reads it, and that runs code.
    return FileKind.PICKLED_MODULE


def _root_kind(path: Path, root: Item) -> FileKind:
    if root.kind == "dict":
        return FileKind.STATE_DICT
    if root.kind == "object" and not root.name.startswith("torch._utils._rebuild"):
        return FileKind.PICKLED_MODULE
    what = "a single tensor" if root.kind == "object" else f"a {root.kind}"
    raise ModelError(
        f"was written by torch.save but holds {what}, not a model",
        where=path,
        mend="save model.state_dict(), or the model with torch.export.save",
    )


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Eight bytes of header length, little-endian, then JSON (the format's own documentation)."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or not 2 <= length <= _SAFETENSORS_HEADER_LIMIT:
        return False
    again = "copy or download it again"
    if 8 + length > size:
        raise ModelError("is a truncated safetensors file: its header is cut off", where=path, mend=again)
    with path.open("rb") as file:
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            data = max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise ModelError("is a safetensors file with a damaged header", where=path, mend=again) from error
    if not isinstance(data, int) or 8 + length + data > size:
        raise ModelError(
            f"is a truncated safetensors file: {size:,} bytes of {8 + length + data:,}", where=path, mend=again
        )
    return True


def _refuse_text(path: Path, head: bytes) -> None:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # A character may be cut at the end of what was read.
        if error.start < len(head) - 4:
            return
        text = head[: error.start].decode()
    if any(ord(character) < 32 and character not in "\t\n\r\f" for character in text):
        return
    if text.startswith("version https://git-lfs"):
        raise ModelError("is a Git LFS pointer, not the model itself", where=path, mend="run 'git lfs pull'")
    if text.lstrip().lower().startswith(("<!doctype html", "<html")):
        raise ModelError("is a web page, not a model", where=path, mend="download the file itself")
    start = " ".join(text.split())[:40]
    raise ModelError(f"is a text file, not a model (it starts with {start!r})", where=path)


def _is_onnx(path: Path, file: BinaryIO, size: int) -> bool:
    """Walk the top-level fields of a protobuf message and see whether they are those of ONNX's ``ModelProto``.

    ``onnx.proto``: 1 ir_version and 5 model_version are numbers; the others, up to 26, are texts and messages; 7 is
    the graph.
    """
    file.seek(0)
    seen: set[int] = set()
    while file.tell() < size:
        key = _varint(file)
        number, wire = (key >> 3, key & 7) if key is not None else (0, 7)
        expected = 0 if number in {1, 5} else 2
        if not 1 <= number <= 26 or wire != expected:
            return _cut_off_onnx(path) if 1 in seen and 7 in seen else False
        value = _varint(file)
        if value is None:
            return _cut_off_onnx(path) if 1 in seen else False
        if wire == 2:
            if file.tell() + value > size:
                return _cut_off_onnx(path) if 1 in seen else False
            file.seek(value, os.SEEK_CUR)
        elif number == 1 and not 1 <= value <= 1000:
            return False
        seen.add(number)
    return 1 in seen and 7 in seen


def _cut_off_onnx(path: Path) -> bool:
    raise ModelError("is a truncated or damaged ONNX file", where=path, mend="copy or download it again")


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
