"""Reading .npy and .npz: no pickles, no bombs, no copy of a mapped file."""

import io
import zipfile

import numpy as np
import pytest

from compressor.errors import DataError
from compressor.task import arrays
from compressor.task.arrays import read_npy, read_npz

X = np.arange(12, dtype=np.float32).reshape(6, 2)


class Payload:
    """Would leave a file behind if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def message_of(read, *arguments):
    with pytest.raises(DataError) as error:
        read(*arguments)
    return str(error.value)


def test_npy_is_mapped_and_writable_without_changing_the_file(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, X)
    x = read_npy(path, "a.npy").examples["all"].inputs[0]
    assert isinstance(x.base, np.memmap)
    x[0] = 99
    assert np.array_equal(np.load(path), X)


@pytest.mark.parametrize(
    ("beside", "found"), [([], None), (["y"], "y"), (["a_y"], "a_y"), (["a_y", "y"], "a_y"), (["b_y"], None)]
)
def test_npy_finds_its_targets(tmp_path, beside, found):
    np.save(tmp_path / "a.npy", X)
    for i, name in enumerate(beside):
        np.save(tmp_path / f"{name}.npy", np.arange(6) + i)
    parts = read_npy(tmp_path / "a.npy", "a.npy")
    if found is None:
        assert parts.examples["all"].targets is None
        assert parts.notes == ("no targets: no a_y.npy or y.npy beside it",)
    else:
        assert np.array_equal(parts.examples["all"].targets, np.arange(6))
        assert parts.notes == (f"targets read from {found}.npy",)


def test_npz_with_python_objects_runs_nothing(tmp_path):
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    np.savez(path, x=X, y=np.array([Payload(trace)], dtype=object))
    assert message_of(read_npz, path, None, "a") == (
        f"{path}: y is an array of Python objects, which only a pickle can hold; "
        "save it as numbers or text: array.astype(float), array.astype(str)"
    )
    assert not trace.exists()


def test_npy_with_python_objects(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], dtype=object))
    assert message_of(read_npy, path, "a") == (
        f"{path}: a.npy is an array of Python objects, which only a pickle can hold; "
        "save it as numbers or text: array.astype(float), array.astype(str)"
    )


def test_zip_bomb(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((4000, 1000), np.float32))
    assert read_npz(path, None, "a").examples["all"].inputs[0].shape == (4000, 1000)
    monkeypatch.setattr(arrays, "_BOMB_BYTES", 2**20)
    unpacked = 4000 * 1000 * 4 + 128
    with zipfile.ZipFile(path) as archive:
        ratio = unpacked // archive.infolist()[0].compress_size
    assert ratio > 100
    assert message_of(read_npz, path, None, "a") == (
        f"{path}: unpacks to 0.0 GiB, {ratio} times its size: refused as a zip bomb; "
        "save it with numpy.savez (not compressed) if it is what it should be"
    )


def test_npz_whose_header_claims_more_than_it_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)})
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(8))
    assert message_of(read_npz, path, None, "a") == (
        f"{path}: x should hold 40000000000000 bytes and has 8; save it again"
    )


def test_npz_with_something_else_in_it(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert message_of(read_npz, path, None, "a") == f"{path}: holds notes.txt, which is not an array"


def test_files_that_are_not_what_they_are_called(tmp_path):
    npy, npz = tmp_path / "a.npy", tmp_path / "a.npz"
    npy.write_bytes(b"not an array")
    npz.write_bytes(b"not an archive")
    assert message_of(read_npz, npz, None, "a") == f"{npz}: is not a readable .npz file (File is not a zip file)"
    assert message_of(read_npy, npy, "a").startswith(f"{npy}: is not a readable .npy file (the magic string is not")


def test_truncated_npy(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-100])
    assert message_of(read_npy, path, "a").startswith(f"{path}: is not a readable .npy file (")
    np.save(path, np.zeros(1000))
    path.write_bytes(path.read_bytes()[:-100])
    assert message_of(read_npy, path, "a") == f"{path}: a.npy should hold 8000 bytes and has 7900; save it again"
