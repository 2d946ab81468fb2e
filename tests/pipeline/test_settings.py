"""The settings that a run is taken up by."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.passes.registry import make_pass
from compressor.pipeline.job import Job, Method
from compressor.pipeline.settings import deciding, settings_of, stage_name


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "d.npz").write_bytes(b"data")
    methods = (Method("prune", {"flops": 0.4}), Method("int8"))
    shapes = ((3, 8, 8), (5,))
    return Job(tmp_path / "m.onnx", methods, data=str(tmp_path / "d.npz"), input_shapes=shapes, meters=("a", "b"))


def settings(job: Job) -> dict[str, object]:
    return dict(settings_of(job, [make_pass(one.name, **one.settings) for one in job.methods]))


def test_they_are_flat_and_hold_the_methods_own(job: Job) -> None:
    found = settings(job)
    assert (stage_name(0, "prune"), found["methods"]) == ("1-prune", "prune,int8")
    assert (found["1-prune.flops"], found["2-int8.by_rule"]) == (0.4, False)
    assert (found["input_shapes"], found["meters"], found["runtimes"]) == ("3x8x8,5", "a,b", None)
    assert all(isinstance(value, str | int | float | bool | None) for value in found.values())
    assert "out" not in found
    assert "overwrite" not in found


@pytest.mark.parametrize(("file", "key"), [("m.onnx", "model_changed"), ("d.npz", "data_changed")])
def test_a_file_that_changed_changes_them(file: str, key: str, job: Job, tmp_path: Path) -> None:
    before = settings(job)
    os.utime(tmp_path / file, ns=(1, 1))
    after = settings(job)
    assert {name for name in before if before[name] != after[name]} == {key}


def test_a_file_deep_in_a_folder_of_data_and_the_users_own_code_count(job: Job, tmp_path: Path) -> None:
    picture, code = tmp_path / "pictures" / "cat" / "a.png", tmp_path / "mine.py"
    picture.parent.mkdir(parents=True)
    for file in (picture, code):
        file.touch()
    distill = Method("distill", {"student": f"{code}:small", "augment": (f"{code}:noise", "shift")})
    job = replace(job, data=str(tmp_path / "pictures"), methods=(distill,), metric=f"{code}:score")
    before = settings(job)
    for file in (picture, code):
        os.utime(file, ns=(2**62, 2**62))
    after = settings(job)
    assert {name for name in before if before[name] != after[name]} == {
        "data_changed", "metric_changed", "1-distill.student_changed", "1-distill.augment_changed",
    }  # fmt: skip


def test_a_stage_follows_from_the_methods_up_to_its_own(job: Job) -> None:
    found = settings(job)
    assert deciding(found, "measure") == found  # type: ignore[arg-type]
    other = settings(replace(job, methods=(job.methods[0], Method("int8-dynamic"))))
    for stage, same in (("export", True), ("score", True), ("1-prune", True), ("2-int8", False), ("measure", False)):
        assert (deciding(found, stage) == deciding(other, stage)) is same  # type: ignore[arg-type]
    assert deciding(found, "1-prune")["methods"] == "prune"
    assert "1-prune.flops" not in deciding(found, "score")
    longer = settings(replace(job, data="demo"))
    assert deciding(found, "export") != deciding(longer, "export")  # type: ignore[arg-type]


def test_data_that_are_no_file_have_no_time(tmp_path: Path) -> None:
    found = settings(Job(tmp_path / "gone.onnx", data="demo"))
    assert (found["data"], found["data_changed"], found["model_changed"]) == ("demo", None, None)
