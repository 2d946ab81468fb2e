from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from decoders import save_llama
from safetensors.torch import load_file, save_file

from compressor.errors import MethodError, ModelError, OutputError, UnsafeFileError
from compressor.model.checkpoint import open_checkpoint
from compressor.streaming import write
from compressor.streaming.write import StreamJob, sha256_of_weights, stream


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def whole(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stream(StreamJob(llama, shard_bytes=40_000, out=tmp_path_factory.mktemp("whole") / "out")).folder


class Stop(BaseException):
    """Stands in for a kill: nothing in the package catches it."""


def stop_at(number: int) -> Any:
    calls = iter(range(10**6))

    def tell(_: float, __: float, ___: str) -> None:
        if next(calls) == number:
            raise Stop

    return tell


def test_the_folder_is_complete(llama: Path, whole: Path) -> None:
    names = {file.name for file in whole.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors.index.json"} <= names
    config = json.loads((whole / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "compressor",
        "version": 1,
        "bits": 4,
        "block_size": 64,
        "symmetric": False,
    }
    assert {k: v for k, v in config.items() if k != "quantization_config"} == json.loads(
        (llama / "config.json").read_text()
    )
    stored = open_checkpoint(whole)
    index = json.loads((whole / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.size_bytes for tensor in stored.values())
    assert len({tensor.file for tensor in stored.values()}) == len(list(whole.glob("*.safetensors"))) == 3


def test_what_is_not_quantized_is_the_same_bytes(llama: Path, whole: Path) -> None:
    given: dict[str, torch.Tensor] = {}
    for file in llama.glob("*.safetensors"):
        given.update(load_file(file))
    found: dict[str, torch.Tensor] = {}
    for file in whole.glob("*.safetensors"):
        found.update(load_file(file))
    same = given.keys() & found.keys()
    assert len(same) == 7
    assert all(torch.equal(given[name], found[name]) for name in same)


@pytest.mark.parametrize("number", [1, 5, 20])
def test_a_killed_run_goes_on_to_the_same_bytes(llama: Path, whole: Path, tmp_path: Path, number: int) -> None:
    job = StreamJob(llama, shard_bytes=40_000, out=tmp_path / "out")
    with pytest.raises(Stop):
        stream(job, stop_at(number))
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    found = stream(job, lambda _, __, name: told.append(name))
    assert found.resumed == number
    assert len(told) == found.tensors - number + 1
    assert sha256_of_weights(found.folder) == sha256_of_weights(whole)


def test_half_a_tensor_is_written_again(
    llama: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of a tensor leaves some of its rows; they carry no mark."""
    calls = iter(range(10**6))
    real = write._write_at

    def half(file: int, offset: int, data: memoryview) -> None:
        if next(calls) == 10:
            real(file, offset, data[: data.nbytes // 2] if data.contiguous and data.ndim == 1 else data)
            raise Stop
        real(file, offset, data)

    monkeypatch.setattr(write, "_write_at", half)
    job = StreamJob(llama, shard_bytes=40_000, out=tmp_path / "out")
    with pytest.raises(Stop):
        stream(job)
    monkeypatch.setattr(write, "_write_at", real)
    assert sha256_of_weights(stream(job).folder) == sha256_of_weights(whole)


def test_a_lost_file_is_written_again(llama: Path, whole: Path, tmp_path: Path) -> None:
    job = StreamJob(llama, shard_bytes=40_000, out=tmp_path / "out")
    with pytest.raises(Stop):
        stream(job, stop_at(20))
    partial = tmp_path / "out.partial"
    first, second = sorted(partial.glob("model-*.safetensors"))[:2]
    first.unlink()
    os.truncate(second, 100)
    found = stream(job)
    assert found.resumed < 20
    assert sha256_of_weights(found.folder) == sha256_of_weights(whole)


def test_rows_are_taken_in_blocks(llama: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the blocks, hence of the memory, does not show in the result."""
    monkeypatch.setattr(write, "BLOCK_WEIGHTS", 200)
    monkeypatch.setattr(write, "COPY_BYTES", 1000)
    found = stream(StreamJob(llama, shard_bytes=40_000, out=tmp_path / "out"))
    assert sha256_of_weights(found.folder) == sha256_of_weights(whole)


class TestRefused:
    def test_an_unfinished_run_of_other_settings(self, llama: Path, tmp_path: Path) -> None:
        with pytest.raises(Stop):
            stream(StreamJob(llama, out=tmp_path / "out"), stop_at(3))
        with pytest.raises(OutputError, match="holds an unfinished run of another model, data or settings"):
            stream(StreamJob(llama, bits=8, out=tmp_path / "out"))
        assert stream(StreamJob(llama, bits=8, out=tmp_path / "out", overwrite=True)).resumed == 0

    def test_a_source_that_changed_meanwhile(self, llama: Path, tmp_path: Path) -> None:
        shutil.copytree(llama, tmp_path / "source")
        with pytest.raises(Stop):
            stream(StreamJob(tmp_path / "source", out=tmp_path / "out"), stop_at(3))
        file = next((tmp_path / "source").glob("*.safetensors"))
        os.utime(file, ns=(0, 0))
        with pytest.raises(OutputError, match="holds an unfinished run of another model, data or settings"):
            stream(StreamJob(tmp_path / "source", out=tmp_path / "out"))

    def test_a_folder_that_holds_something(self, llama: Path, whole: Path, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="already holds something"):
            stream(StreamJob(llama, out=whole))
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "file").touch()
        with pytest.raises(OutputError, match="holds files that are not a run's"):
            stream(StreamJob(llama, out=tmp_path / "mine", overwrite=True))

    def test_a_full_disk_is_told_before_anything_is_written(
        self, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
        with pytest.raises(OutputError) as caught:
            stream(StreamJob(llama, out=tmp_path / "out"))
        assert str(caught.value) == (
            f"{tmp_path / 'out'}: the disk is full: about 67 MB are needed, 1 MB are free; "
            "free some space or name another folder with --out"
        )
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_fills_up_meanwhile(self, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(write, "_write_at", full)
        with pytest.raises(OutputError, match="the disk is full; free some space or name another folder with --out"):
            stream(StreamJob(llama, out=tmp_path / "out"))

    def test_a_checkpoint_that_is_quantized(self, whole: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ModelError, match="is quantized already, by this tool; give the model that it was made from"
        ):
            stream(StreamJob(whole, out=tmp_path / "out"))

    def test_weights_that_are_no_numbers(self, llama: Path, tmp_path: Path) -> None:
        shutil.copytree(llama, tmp_path / "source")
        for file in (tmp_path / "source").glob("*.safetensors"):
            tensors = load_file(file)
            for name in tensors:
                if "down_proj" in name:
                    tensors[name][3, 5] = float("nan")
            save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(
            MethodError, match=r"model.layers.\d.mlp.down_proj.weight: has weights that are NaN or infinite"
        ):
            stream(StreamJob(tmp_path / "source", out=tmp_path / "out"))

    def test_pickled_weights(self, llama: Path, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").touch()
        shutil.copy(llama / "config.json", tmp_path)
        with pytest.raises(UnsafeFileError):
            stream(StreamJob(tmp_path, out=tmp_path / "out"))
