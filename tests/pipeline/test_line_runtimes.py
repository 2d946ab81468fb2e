"""Runs with torchao and with several runtimes, the benchmark left out: its figures are invented, all else is real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from invented import invented_benchmark
from torch import nn

from compressor.pipeline import Job, Method, deliver, line, run
from compressor.runtimes.registry import open_session


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    path = tmp_path_factory.mktemp("model") / "mlp.pt2"
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, (torch.randn(2, 32),), dynamic_shapes=free), path)
    return path


def outcome(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, method: str, *runtimes: str):
    monkeypatch.setattr(line, "run_benchmark", invented_benchmark)
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
