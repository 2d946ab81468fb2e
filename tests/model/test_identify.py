from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.errors import ModelError
from compressor.model.identify import FileKind, identify

KINDS = {
    "net.pt2": FileKind.EXPORTED_PROGRAM,
    "scripted.pt": FileKind.TORCHSCRIPT,
    "traced.pt": FileKind.TORCHSCRIPT,
    "state.pt": FileKind.STATE_DICT,
    "legacy.pt": FileKind.STATE_DICT,
    "pickled.pt": FileKind.PICKLED_MODULE,
    "net.safetensors": FileKind.SAFETENSORS,
    "net.onnx": FileKind.ONNX,
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_content_decides_not_the_name(saved, tmp_path, name, kind):
    for ending in (".pt", ".onnx", ".bin", ""):
        copy = shutil.copy(saved[name], tmp_path / f"model{ending}")
        assert identify(Path(copy)) is kind


def test_a_link_to_a_model_is_fine(saved, tmp_path):
    (tmp_path / "link.pt").symlink_to(saved["net.pt2"])
    assert identify(tmp_path / "link.pt") is FileKind.EXPORTED_PROGRAM


def test_only_three_kinds_say_what_goes_in():
    wanted = {FileKind.EXPORTED_PROGRAM, FileKind.ONNX, FileKind.HUGGING_FACE}
    assert {k for k in FileKind if k.has_signature} == wanted


def test_torch_is_not_imported(saved):
    code = (
        "import sys; from pathlib import Path; from compressor.model.identify import identify\n"
        f"for p in sorted(Path({str(saved.folder)!r}).glob('*.[pos]*')):\n    p.suffix != '.py' and identify(p)\n"
        "print([m for m in ('torch', 'onnx', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def refuse(path: Path, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        identify(path)
    assert str(caught.value) == f"{path}: {message}"


def test_missing(saved, tmp_path):
    refuse(tmp_path / "nothing", "no such file; check the path")
    refuse(saved["nett.pt2"], f"no such file; did you mean '{saved['net.pt2']}'?")
    refuse(tmp_path / "no" / "folder.pt", "no such file; check the path")


def test_folder(tmp_path):
    refuse(tmp_path, "is a folder; name the model file in it")
    (tmp_path / "weights.safetensors").touch()
    refuse(tmp_path, "is a folder; name the model file in it, e.g. weights.safetensors")


def test_empty(tmp_path):
    path = tmp_path / "m.pt"
    path.touch()
    refuse(path, "is empty (0 bytes); copy or download it again, or save it anew")


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "is not a regular file")


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("name", ["net.pt2", "scripted.pt", "state.pt", "pickled.pt"])
def test_truncated_archive(saved, tmp_path, name, part):
    content = saved[name].read_bytes()
    path = tmp_path / "m.pt"
    path.write_bytes(content[: int(len(content) * part)])
    refuse(path, "is a truncated or damaged zip archive; copy or download it again, or save it anew")


def test_truncated_legacy(saved, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(saved["legacy.pt"].read_bytes()[:600])
    refuse(path, "its pickle is damaged or cut off; copy or download it again, or save it anew")


@pytest.mark.parametrize("size", [100, 400])
def test_truncated_onnx(saved, tmp_path, size):
    content = saved["net.onnx"].read_bytes()
    path = tmp_path / "m.onnx"
    path.write_bytes(content[: len(content) * size // 500])
    refuse(path, "is a truncated or damaged ONNX file; copy or download it again")


def test_truncated_safetensors(saved, tmp_path):
    content = saved["net.safetensors"].read_bytes()
    path = tmp_path / "m.safetensors"
    path.write_bytes(content[:-10])
    refuse(
        path,
        f"is a truncated safetensors file: {len(content) - 10:,} bytes of {len(content):,}; copy or download it again",
    )
    path.write_bytes(content[:50])
    refuse(path, "is a truncated safetensors file: its header is cut off; copy or download it again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"hello, I am no model\n" * 9,
            "is a text file, not a model (it starts with 'hello, I am no model hello, I am no mode')",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer, not the model itself; run 'git lfs pull'",
        ),
        (b"<!DOCTYPE html><html>404", "is a web page, not a model; download the file itself"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, such as Keras writes; convert it to ONNX"),
        (b"\x1c\0\0\0TFL3" + bytes(99), "is a TensorFlow Lite model; convert it to ONNX"),
        (gzip.compress(b"x" * 99, mtime=0), "is gzip-compressed; unpack it and name the model inside"),
        (
            bytes(range(200, 250)),
            "is no kind of model that is known (it starts with the bytes c8 c9 ca cb cc cd ce cf); known: exported "
            "program, TorchScript, state dict, safetensors, pickled module, ONNX, Hugging Face folder",
        ),
    ],
)
def test_something_else(tmp_path, content, message):
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    refuse(path, message)


def test_a_zip_archive_of_something_else(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.ones(3))
    refuse(
        tmp_path / "m.npz",
        "is a zip archive, but not one that torch wrote; if it holds a model, unpack it and name the model inside",
    )


def test_a_saved_tensor_is_no_model(tmp_path):
    torch.save(torch.ones(3), tmp_path / "m.pt")
    refuse(
        tmp_path / "m.pt",
        "was written by torch.save but holds a single tensor, not a model; save model.state_dict(), or the model with "
        "torch.export.save",
    )


def test_plain_pickles_are_told_without_loading(tmp_path):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert identify(path) is FileKind.PICKLED_MODULE


def test_random_bytes_never_raise_anything_else(saved, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.pt"
    for name in KINDS:
        content = bytearray(saved[name].read_bytes())
        for _ in range(20):
            damaged = content.copy()
            for at in rng.integers(0, len(content), 20):
                damaged[at] = rng.integers(0, 256)
            path.write_bytes(damaged)
            with contextlib.suppress(ModelError):
                assert identify(path) in FileKind
