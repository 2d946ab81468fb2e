"""What is checked of a stage's record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chains import save_chain

from compressor.errors import MethodError
from compressor.export import sha256_of
from compressor.pipeline.stages import Exported, Made, Scored, intact, prove
from compressor.results import Artifact, KernelCounts, ModelSummary, Parity, Score, Step, TaskSummary

SUMMARY = ModelSummary("m", "m", "ONNX", "00", 1, None, ())


def artifact(path: str, sha256: str, **settings: bool) -> Artifact:
    return Artifact(path, "onnx", sha256, 1, (), (), 20, 1, (Step("int8", settings, ()),))


@pytest.fixture
def file(tmp_path: Path) -> Artifact:
    save_chain(tmp_path / "model.onnx")
    return artifact("model.onnx", sha256_of(tmp_path / "model.onnx"))


def records(file: Artifact) -> list[object]:
    score = Score("accuracy", 1.0, "fraction", True)
    made = Made("ONNX int8", file, "model.pt2", None, score, Parity("PyTorch", 1, 0.0, 0.0, None, None))
    return [Exported(SUMMARY, {"ONNX fp32": file}, {}, ()), made]


def test_a_stage_is_taken_up_if_its_files_are_what_they_were(file: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"program")
    assert [intact(record, tmp_path) for record in records(file)] == [True, True]
    assert intact(Scored(TaskSummary("t", "accuracy", False, 0, 1), {}, {}, ()), tmp_path)
    (tmp_path / "model.pt2").unlink()
    assert [intact(record, tmp_path) for record in records(file)] == [True, False]
    save_chain(tmp_path / "model.onnx", seed=1)
    assert [intact(record, tmp_path) for record in records(file)] == [False, False]
    (tmp_path / "model.onnx").write_bytes(b"half")
    assert [intact(record, tmp_path) for record in records(file)] == [False, False]
    (tmp_path / "model.onnx").unlink()
    assert [intact(record, tmp_path) for record in records(file)] == [False, False]


def test_an_int8_graph_that_runs_in_fp32_is_refused_unless_that_was_measured_to_be_best() -> None:
    made = artifact("model.onnx", "00")
    fp32 = KernelCounts(2, 0, "int8", {"Conv": 2}, {"b": "no kernel", "a": "no kernel"})
    with pytest.raises(MethodError) as caught:
        prove("int8-static", "ONNX int8-static", made, fp32)
    assert str(caught.value) == (
        "ONNX int8-static: no operator will run in int8 (no kernel); the model is left as it was; try another method"
    )
    with pytest.raises(MethodError, match="the graph has no such operator"):
        prove("int8", "ONNX int8", made, replace(fp32, left={}))
    prove("int8", "ONNX int8", artifact("model.onnx", "00", kept_fp32=True), fp32)
    prove("int8", "ONNX int8", made, replace(fp32, low_precision=1))
    prove("int8", "ONNX int8", made, None)
    prove("fp16", "ONNX fp16", made, fp32)
