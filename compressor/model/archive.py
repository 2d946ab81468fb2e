"""The zip archives that torch writes: their table of contents, screened before anything in them is unpacked."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import ModelError, UnsafeFileError

# Deflate reaches a little over 1000:1 on zeros; the code and tables that torch does compress stay below 50:1.
_MAX_RATIO = 200
_RATIO_FLOOR_BYTES = 1 << 20
# All members together; torch stores tensors uncompressed, so an honest archive is about as large as what it holds.
_MAX_GROWTH = 10
_GROWTH_FLOOR_BYTES = 64 << 20
_MAX_MEMBERS = 200_000
_MAX_TEXT_BYTES = 256 << 20


@dataclass(frozen=True)
class Archive:
    """A screened archive.

    Attributes:
        path: The file, for messages too where ``content`` is given.
        sizes: Uncompressed size in bytes of every member, by its name without the archive's own top folder.
        top: That top folder with its slash.
        content: The archive itself where it is inside another one; ``None`` where it is the file.
    """

    path: Path
    sizes: dict[str, int]
    top: str
    content: bytes | None = None

    def read(self, name: str) -> bytes:
        """Read one member.

        Args:
            name: Without the top folder.

        Raises:
            ModelError: It is damaged, or over 256 MB (no pickle, code or graph of a model is).
        """
        if self.sizes[name] > _MAX_TEXT_BYTES:
            raise UnsafeFileError(f"its member '{name}' has {self.sizes[name] >> 20} MB, too much", where=self.path)
        try:
            with zipfile.ZipFile(self.path if self.content is None else io.BytesIO(self.content)) as archive:
                return archive.read(self.top + name)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise damaged(self.path) from error


def damaged(path: Path) -> ModelError:
    """The error for an archive that is cut off."""
    return ModelError(
        "is a truncated or damaged zip archive", where=path, mend="copy or download it again, or save it anew"
    )


def open_archive(path: Path, content: bytes | None = None) -> Archive:
    """Read the table of contents and screen it.

    Args:
        path: A file that starts like a zip archive.
        content: Such an archive found inside that file, to be read instead.

    Returns:
        The members.

    Raises:
        ModelError: Truncated, damaged, or without the single top folder that torch's archives have.
        UnsafeFileError: A member's path leads outside, occurs twice, is encrypted, or unpacks to far more than the
            file's size.
    """
    try:
        with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            first = min((info.header_offset for info in archive.infolist()), default=0)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, UnicodeError) as error:
        raise damaged(path) from error
    if first != 0:
        # The table found is that of an archive inside this one, whose own end is missing.
        raise damaged(path)
    if not members:
        raise ModelError("is a zip archive with nothing in it", where=path)
    if len(members) > _MAX_MEMBERS:
        raise UnsafeFileError(f"is a zip archive of {len(members)} members, too many", where=path)
    _check_members(path, members, path.stat().st_size if content is None else len(content))
    top = members[0].filename.partition("/")[0] + "/"
    sizes = {info.filename.removeprefix(top): info.file_size for info in members if info.filename.startswith(top)}
    # Torch 2.7 and older wrote exported programs without a top folder.
    flat = {info.filename: info.file_size for info in members}
    return Archive(path, sizes, top, content) if len(sizes) == len(members) else Archive(path, flat, "", content)


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    seen: set[str] = set()
    for info in members:
        name = info.filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or not name.isprintable():
            raise UnsafeFileError(f"holds a member {name!r} whose path leads outside the archive", where=path)
        # Case-insensitive: torch's own reader of archives looks names up so.
        if name.lower() in seen:
            raise UnsafeFileError(f"holds the member '{name}' twice", where=path)
        seen.add(name.lower())
        if info.flag_bits & 0x1:
            raise UnsafeFileError(f"holds the encrypted member '{name}'", where=path)
        if info.file_size > max(_RATIO_FLOOR_BYTES, _MAX_RATIO * info.compress_size):
            raise _bomb(path, size, info.file_size, f"'{name}'")
    total = sum(info.file_size for info in members)
    if total > _GROWTH_FLOOR_BYTES + _MAX_GROWTH * size:
        raise _bomb(path, size, total, "all")


def _bomb(path: Path, size: int, unpacked: int, what: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"holds a zip bomb: an archive of {size:,} bytes of which {what} would unpack to {unpacked:,}", where=path
    )
