from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.checkpoint import open_checkpoint, read_header, read_into, read_rows


def write_raw(path: Path, header: object, body: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), at: tuple[int, int] = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


class TestHeader:
    def test_agrees_with_the_library(self, tmp_path: Path) -> None:
        tensors = {"b": torch.arange(6).view(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "empty": torch.zeros(0)}
        save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
        found = read_header(tmp_path / "x.safetensors")
        assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
            "a": ("BF16", (4,)),
            "b": ("I64", (2, 3)),
            "empty": ("F32", (0,)),
        }
        whole = np.empty(found["b"].size_bytes, np.uint8)
        read_into(found["b"], 0, memoryview(whole))
        assert whole.view(np.int64).tolist() == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("size", "says"),
        [
            (4, "is cut off within its safetensors header, or is no such file"),
            (30, "is cut off within its safetensors header, or is no such file"),
            (-8, "is cut off: 8 of "),
        ],
    )
    def test_a_cut_file_is_refused(self, tmp_path: Path, size: int, says: str) -> None:
        path = tmp_path / "x.safetensors"
        save_file({"a": torch.ones(64)}, path)
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ModelError) as caught:
            read_header(path)
        assert str(caught.value).startswith(f"{path}: {says}")
        assert str(caught.value).endswith("; copy or download it again")

    @pytest.mark.parametrize(
        ("header", "body", "says"),
        [
            ([1], 0, "has a damaged safetensors header (no table of tensors)"),
            ({"a": {"dtype": "F32"}}, 0, "has no shape, type and place for tensor 'a'"),
            ({"a": entry("F12")}, 8, "tensor 'a' is of the unknown type 'F12'"),
            ({"a": entry(shape=(3,))}, 8, "tensor 'a' is F32 [3] and has the bytes 0 to 8, which disagree"),
            ({"a": entry(shape=(-2,))}, 8, "tensor 'a' is F32 [-2] and has the bytes 0 to 8, which disagree"),
            ({"a": entry(), "b": entry(at=(4, 12))}, 12, "has a gap or an overlap in front of tensor 'b'"),
            ({"a": entry(at=(8, 16))}, 16, "has a gap or an overlap in front of tensor 'a'"),
            ({"a": entry()}, 9, "has 1 bytes too many"),
        ],
    )
    def test_a_header_that_lies_is_refused(self, tmp_path: Path, header: object, body: int, says: str) -> None:
        path = write_raw(tmp_path / "x.safetensors", header, b"\0" * body)
        with pytest.raises(ModelError) as caught:
            read_header(path)
        assert caught.value.what == says

    def test_a_header_that_is_no_json_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes((4).to_bytes(8, "little") + b"{{{{")
        with pytest.raises(ModelError, match="has a damaged safetensors header"):
            read_header(path)


class TestFolder:
    @pytest.fixture
    def sharded(self, tmp_path: Path) -> Path:
        save_file({"a": torch.ones(2)}, tmp_path / "m-1.safetensors")
        save_file({"b": torch.ones(3)}, tmp_path / "m-2.safetensors")
        self.index(tmp_path, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
        return tmp_path

    @staticmethod
    def index(folder: Path, weight_map: object) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    def test_shards_are_one_checkpoint(self, sharded: Path) -> None:
        found = open_checkpoint(sharded)
        assert {name: tensor.file.name for name, tensor in found.items()} == {
            "a": "m-1.safetensors",
            "b": "m-2.safetensors",
        }

    @pytest.mark.parametrize(
        ("weight_map", "says"),
        [
            ({"a": "m-1.safetensors", "b": "m-3.safetensors"}, "names m-3.safetensors, which is not there"),
            ({"a": "m-1.safetensors"}, None),
            (
                {"a": "m-2.safetensors", "b": "m-2.safetensors"},
                "says that tensor 'a' is in m-2.safetensors, and it is not",
            ),
            ({"b": "m-1.safetensors"}, "does not say that tensor 'a' is in m-1.safetensors"),
            ([], "is no index of safetensors files"),
            ({"a": 1}, "is no index of safetensors files"),
        ],
    )
    def test_an_index_that_disagrees(self, sharded: Path, weight_map: object, says: str | None) -> None:
        self.index(sharded, weight_map)
        if says is None:
            assert set(open_checkpoint(sharded)) == {"a"}
            return
        with pytest.raises(ModelError) as caught:
            open_checkpoint(sharded)
        assert caught.value.what == says

    def test_an_index_cannot_lead_outside(self, sharded: Path) -> None:
        self.index(sharded, {"a": "../m.safetensors"})
        with pytest.raises(UnsafeFileError, match="which is no safetensors file beside it"):
            open_checkpoint(sharded)

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"holds neither model.safetensors nor model.safetensors.index.json"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 5, dtype=torch.float32).to(dtype)
    save_file({"before": torch.ones(3), "w": weight}, tmp_path / "model.safetensors")
    tensor = open_checkpoint(tmp_path)["w"]
    assert read_rows(tensor, 2, 6).tolist() == weight[2:6].float().tolist()


def test_a_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(8, 8)}, path)
    tensor = open_checkpoint(tmp_path)["w"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="has become shorter while it was read"):
        read_rows(tensor, 0, 8)
