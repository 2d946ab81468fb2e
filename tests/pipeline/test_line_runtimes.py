"""Runs with torchao and with several runtimes, the benchmark left out: its figures are invented, all else is real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compressor.benchmark.runner import Arm, BenchmarkResult
from compressor.environment import describe_environment
from compressor.pipeline import Job, Method, deliver, line, run
from compressor.results import Measurement, MeterInfo, RuntimeInfo, Trial
from compressor.runtimes.registry import FORMATS, open_session

METER = MeterInfo("cpu-time", ("cpu",), "estimated", "process", 0.0, 0.0, "fake")
COST_S = {"torch-compile": 1.0, "torch": 3.0, "onnxruntime": 2.0, "openvino": 1.0}
"""Invented: CPU seconds of a call, by runtime."""


def fake_benchmark(arms: Sequence[Arm], inputs: Any, plan: Any, **_: Any) -> BenchmarkResult:
    """Invented figures for real arms."""
    environment = describe_environment(0.0)
    found = []
    for arm in arms:
        name = arm.runtime or FORMATS[arm.path.suffix]
        cost = COST_S[name] * (0.5 if arm.role in ("candidate", "stage") else 1.0)
        noise = 1e-3 if arm.role == "control" else 0.0
        trials = tuple(
            Trial(i, 1, cost, cost * (1 + 1e-3 * i + noise * (-1) ** i), {"cpu-time/cpu": 10 * cost}, 0.0, None)
            for i in range(4)
        )
        runtime = RuntimeInfo(name, "9", arm.device, {})
        found.append(
            Measurement(
                arm=arm.name,
                role=arm.role,
                artifact=arm.artifact,
                runtime=runtime,
                kernels=arm.kernels,
                plan=plan,
                environment=environment,
                meters=(METER,),
                trials=trials,
                rejected=(),
                idle_power_w={},
                latency=None,
                peak_memory_bytes=None,
                load_s=1.0,
                steady=True,
                score=arm.score,
            )
        )
    return BenchmarkResult(tuple(found), (), False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    path = tmp_path_factory.mktemp("model") / "mlp.pt2"
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, (torch.randn(2, 32),), dynamic_shapes=free), path)
    return path


def outcome(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, method: str, *runtimes: str):
    monkeypatch.setattr(line, "run_benchmark", fake_benchmark)
    monkeypatch.setattr(deliver, "render_html", lambda report: report.headline)  # its plots take seconds
    job = Job(model, (Method(method),), preset="quick", out=out, meters=("cpu-time",), runtimes=runtimes)
    return run(job)


def test_torchao_is_measured_on_torch_and_delivered_with_its_graph(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = outcome(model, tmp_path / "out", monkeypatch, "torchao-int8-weight-only", "torch")
    arms = [(m.arm, m.role, m.runtime.name, m.artifact.path) for m in done.report.measurements]
    assert arms == [
        ("PyTorch fp32", "baseline", "torch", "baseline/model.pt2"),
        ("ONNX fp32", "baseline", "onnxruntime", "baseline/model.onnx"),
        ("PyTorch torchao-int8-weight-only", "candidate", "torch", "model.safetensors"),
        ("PyTorch fp32 (A/A)", "control", "torch", "baseline/model.pt2"),
    ]
    assert {control.arm for control in done.report.control} == {"PyTorch fp32"}
    files = {file.name for file in done.folder.iterdir()}
    assert {"model.safetensors", "model.graph.pt2", "report.html"} <= files
    assert open_session(done.folder / "model.safetensors").kernels().low_precision == 2
    candidate = done.report.measurements[2]
    assert candidate.artifact.format == "torchao"
    assert candidate.artifact.size_bytes < done.report.measurements[0].artifact.size_bytes
    assert 0.9 <= candidate.score.value <= 1


def test_the_report_names_the_cheapest_runtime(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="not run: openvino is not installed")
    done = outcome(model, tmp_path / "out", monkeypatch, "fp16", "onnxruntime", "openvino", "torch")
    assert [m.arm for m in done.report.measurements] == [
        "PyTorch fp32",
        "ONNX fp32",
        "ONNX fp32 on openvino",
        "ONNX fp16",
        "ONNX fp16 on openvino",
        "ONNX fp32 (A/A)",
    ]
    assert "; cheapest: ONNX fp16 on openvino, " in done.report.headline
    assert "CPU time than ONNX fp32 on openvino" in done.report.headline
    assert "cheapest: ONNX fp16 on openvino" in (done.folder / "report.md").read_text()
