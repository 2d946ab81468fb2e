from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from compressor import onnx_file
from compressor.errors import ModelError, UnsafeFileError
from compressor.onnx_file import copy_onnx, external_files, save_onnx, staged


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    def write() -> None:
        with staged(tmp_path / "m.onnx") as path:
            path.write_bytes(b"half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_copy_takes_the_weights_along(tmp_path: Path, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 1000)
    save_onnx(onnx.load(chain), tmp_path / "split.onnx")
    assert external_files(tmp_path / "split.onnx") == (tmp_path / "split.onnx.data",)
    assert external_files(chain) == ()
    (tmp_path / "copy").mkdir()
    copy_onnx(tmp_path / "split.onnx", tmp_path / "copy" / "model.onnx")
    assert sorted(x.name for x in (tmp_path / "copy").iterdir()) == ["model.onnx", "model.onnx.data"]
    weights = [onnx.load(path).graph.initializer for path in (chain, tmp_path / "copy" / "model.onnx")]
    assert [x.raw_data for x in weights[0]] == [x.raw_data for x in weights[1]]


@pytest.mark.parametrize("location", ["../w", "/etc/hostname", "a/../../w"])
def test_weights_outside_the_folder(tmp_path: Path, chain: Path, location: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "w").write_bytes(b"\0" * 16384)
    proto = onnx.load(chain)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    source = tmp_path / "inside" / "m.onnx"
    source.write_bytes(proto.SerializeToString())
    with pytest.raises(UnsafeFileError) as caught:
        copy_onnx(source, tmp_path / "copy.onnx")
    assert str(caught.value) == f"{source}: its weights are outside its folder, in {location}"
    assert not (tmp_path / "copy.onnx").exists()


def test_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"x\.onnx: not an ONNX file: .*; give a file that ONNX wrote$"):
        external_files(tmp_path / "x.onnx")
