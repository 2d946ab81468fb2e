from __future__ import annotations

import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.archive import open_archive
from compressor.model.identify import identify


def bomb(path: Path, gigabytes: int, name: str = "m/data.pkl") -> None:
    """A real zip bomb: one member of zeros, whose blocks are made once and repeated (a full flush ends each)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = block * (16 * gigabytes) + packer.flush()
    size = gigabytes << 30
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(data), size, len(name), 0)
    local = b"PK\x03\x04" + common + name.encode()
    central = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    path.write_bytes(local + data + central + end)


def test_a_zip_bomb_is_refused_quickly_and_in_little_memory(tmp_path):
    path = tmp_path / "m.pt"
    bomb(path, 3)
    assert zipfile.ZipFile(path).getinfo("m/data.pkl").file_size == 3 << 30
    with zipfile.ZipFile(path).open("m/data.pkl") as unpacked:
        assert unpacked.read(1 << 20) == bytes(1 << 20)  # it is a real one
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UnsafeFileError) as caught:
        identify(path)
    spent, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value) == (
        f"{path}: holds a zip bomb: an archive of {path.stat().st_size:,} bytes of which 'm/data.pkl' would unpack to "
        "3,221,225,472"
    )
    assert peak < 16 << 20
    assert spent < 60  # unpacking it takes far longer than reading its table; no tighter bound on a busy machine


def test_many_members_that_each_pass_are_a_bomb_together(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(80):
            archive.writestr(f"m/data/{index}", bytes(1 << 20))
    with pytest.raises(UnsafeFileError, match=r"of which all would unpack to 83,886,080$"):
        open_archive(path)


@pytest.mark.parametrize("name", ["../m/x", "/etc/x", "m/../../x", "m\\..\\x", "C:/x", "m/a\nb"])
def test_paths_that_lead_outside(tmp_path, name):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UnsafeFileError) as caught:
        open_archive(path)
    assert "whose path leads outside the archive" in str(caught.value)


def test_the_same_name_twice(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("m/data.pkl", b"y")
    with pytest.raises(UnsafeFileError, match=r"holds the member 'm/data\.pkl' twice$"):
        open_archive(path)


def test_encrypted(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UnsafeFileError, match=r"holds the encrypted member 'm/data\.pkl'$"):
        open_archive(path)


def test_nothing_in_it(tmp_path):
    path = tmp_path / "m.pt"
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(ModelError) as caught:
        identify(path)
    assert str(caught.value) == f"{path}: is a zip archive with nothing in it"
