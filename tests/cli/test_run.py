"""What ``compress MODEL`` makes of its options; the run itself is left out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compressor import cli
from compressor.pipeline import Job, Method


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command up to the run that it asks for; gives the job and the exit code."""
    (tmp_path / "m.pt2").write_bytes(b"never read")
    (tmp_path / "report.json").write_text("{}\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, interrupted: bool = False) -> tuple[Job, int]:
        jobs: list[Job] = []
        outcome = SimpleNamespace(report=None, folder=tmp_path, interrupted=interrupted)
        monkeypatch.setattr("compressor.pipeline.run", lambda job, *_: jobs.append(job) or outcome)
        monkeypatch.setattr(sys, "argv", ["compress", *arguments, "--json"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return jobs[0], int(caught.value.code or 0)

    return run


def test_without_options_a_job_is_as_the_api_has_it(asked: Any) -> None:
    assert asked("m.pt2") == (Job(Path("m.pt2")), 0)


def test_options_are_the_fields_of_the_job(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job, _ = asked(
        *("m.pt2", "--method", "prune", "--method", "int8", "--by-rule", "--keep", "head*", "--quick"),
        *("--batch", "4", "--threads", "2", "--seed", "3", "--max-loss", "0.02", "--runtime", "torch,onnxruntime"),
        *("--meter", "rapl", "--meter", "cpu-time", "--watts-per-core", "7.5", "--out", "there", "--overwrite"),
        *("--data", "d.csv", "--target", "y", "--metric", "f1", "--text", "a,b", "--max-length", "16"),
        *("--input-shape", "1x8x8", "--arch", "m:f", "--hf-task", "text-classification", "--device", "cuda:1"),
        *("--allow-pickle", "--trust-remote-code"),
    )
    assert job == Job(
        Path("m.pt2"),
        (
            Method("prune", {"rules": ("exclude head*",)}),
            Method("int8", {"by_rule": True, "rules": ("exclude head*",)}),
        ),
        data="d.csv",
        metric="f1",
        target="y",
        arch="m:f",
        input_shapes=((1, 8, 8),),
        allow_pickle=True,
        max_loss=0.02,
        preset="quick",
        batch=4,
        threads=2,
        meters=("rapl", "cpu-time"),
        watts_per_core=7.5,
        seed=3,
        out=Path("there"),
        overwrite=True,
        hf_task="text-classification",
        trust_remote_code=True,
        text=("a", "b"),
        max_length=16,
        runtimes=("torch", "onnxruntime"),
        device="cuda:1",
    )
    assert capsys.readouterr() == ("{}\n", "")


def test_what_is_typed_goes_before_the_recipe(asked: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("methods: [prune: {flops: 0.3}, int8]\nmax_loss: 0.05\nseed: 4\ndata: demo\n")
    job, _ = asked("m.pt2", "--recipe", "r.yaml", "--seed", "0", "--by-rule")
    assert job.methods == (Method("prune", {"flops": 0.3}), Method("int8", {"by_rule": True}))
    assert (job.max_loss, job.seed, job.data) == (0.05, 0, "demo")


def test_the_demo_is_a_quick_run_that_may_be_repeated(asked: Any, demo_model: Path) -> None:
    job, _ = asked("demo")
    assert job == Job(demo_model, data="demo", preset="quick", overwrite=True, out=Path("compressed/demo-int8"))
    assert asked("demo", "--certify")[0].preset == "certify"


def test_a_measurement_that_was_cut_short_is_told_by_the_exit_code(asked: Any) -> None:
    assert asked("m.pt2", interrupted=True)[1] == 130
