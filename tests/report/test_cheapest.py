"""The cheapest arm is named where there was a choice of runtimes, and only as surely as it was measured."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from compressor.report.cheapest import cheapest, deciding_meters, time_metric
from compressor.results import Measurement, MeterInfo, Report, RuntimeInfo

NVML = MeterInfo("nvml", ("gpu-0",), "measured", "device", 0.02, 1e-3, "NVML energy counter (fictional)")


def on_openvino(report: Report, of: str, factor: float, *, right: int | None = None, noise: float = 0.001) -> Report:
    """The report with one arm more: a file on OpenVINO, at so much of the cost; figures are invented."""
    arm = next(m for m in report.measurements if m.arm == of)
    draw = random.Random(0)
    each = [factor * (1 + draw.gauss(0, noise)) for _ in arm.trials]
    trials = tuple(
        replace(t, cpu_s=t.cpu_s * f, elapsed_s=t.elapsed_s * f, energy_j={key: j * f for key, j in t.energy_j.items()})
        for t, f in zip(arm.trials, each, strict=True)
    )
    score = arm.score
    if right is not None and score is not None and score.per_example is not None:
        per_example = tuple(float(i < right) for i in range(len(score.per_example)))
        score = replace(score, value=right / len(per_example), per_example=per_example)
    role = "baseline" if arm.role == "baseline" else "stage"
    more = replace(
        arm,
        arm=f"{of} on openvino",
        role=role,
        runtime=RuntimeInfo("openvino", "9", "cpu", {}),
        trials=trials,
        score=score,
    )
    return replace(report, measurements=(*report.measurements, more))


def test_nothing_is_said_without_a_choice(reports: dict[str, Report]) -> None:
    assert {cheapest(report) for report in reports.values()} == {""}


def test_the_cheapest_is_named_with_its_interval(reports: dict[str, Report]) -> None:
    said = cheapest(on_openvino(reports["measured"], "ONNX int8", 0.5))
    assert said.startswith("cheapest: ONNX int8 on openvino, ")
    assert said.endswith("] energy than ONNX fp32")
    assert "CPU time than ONNX fp32" in cheapest(on_openvino(reports["estimated"], "ONNX int8", 0.5))


def test_a_tie_is_not_decided(reports: dict[str, Report]) -> None:
    said = cheapest(on_openvino(reports["measured"], "ONNX int8", 0.999, noise=0.02))
    assert said.startswith("cheapest: ONNX int8")
    assert "not established against ONNX int8" in said


def test_what_lost_its_score_is_no_candidate(reports: dict[str, Report]) -> None:
    said = cheapest(on_openvino(reports["measured"], "ONNX int8", 0.5, right=9000))
    assert said.startswith("cheapest: ONNX int8, ")


def test_the_baseline_may_be_cheapest(reports: dict[str, Report]) -> None:
    said = cheapest(on_openvino(reports["worse"], "ONNX fp32", 3.0))
    assert re.fullmatch(r"cheapest: ONNX fp32; PyTorch fp32 takes 2\.2\d× as much \[2\.2\d, 2\.\d\d\] energy", said)


def test_a_failed_control_decides_nothing(reports: dict[str, Report]) -> None:
    assert "not established against" in cheapest(on_openvino(reports["control failed"], "ONNX int8", 0.5))


def on_gpu(arm: Measurement) -> Measurement:
    return replace(arm, runtime=replace(arm.runtime, device="cuda:0"), meters=(*arm.meters, NVML))


@pytest.mark.parametrize(
    ("case", "names", "time"),
    [("measured", ["nvml", "rapl"], "wall time per inference"), ("estimated", ["nvml"], "wall time per inference")],
)
def test_on_a_gpu_its_own_meter_decides(case: str, names: list[str], time: str, reports: dict[str, Report]) -> None:
    """A record doctored to look as if a GPU had made it; none did."""
    arm = reports[case].measurements[0]
    assert time_metric(arm) == "CPU time per inference"
    assert [meter.name for meter in deciding_meters(on_gpu(arm))] == names
    assert time_metric(on_gpu(arm)) == time
