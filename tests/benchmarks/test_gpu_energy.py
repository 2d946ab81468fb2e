"""The GPU script without a GPU: its arithmetic on invented joules, and its models as toys on the CPU."""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("transformers", reason="not run: transformers is not installed")

from benchmarks import gpu_energy, gpu_models
from benchmarks.gpu_energy import judged, main, side_by_side
from benchmarks.gpu_models import FORMS, MODELS, Form, build, in_form, work_of
from compressor.errors import MeasurementError, MethodError
from compressor.results import MeterInfo, Reading


@pytest.mark.skipif(torch.cuda.is_available(), reason="not run: there is a GPU here")
def test_without_a_gpu_it_says_that_it_did_not_run() -> None:
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 0
    assert done.output.startswith("not run: no NVIDIA GPU")


def test_a_model_that_does_not_exist_is_told() -> None:
    done = CliRunner().invoke(main, ["--models", "bert-bass"])
    assert done.exit_code == 2
    assert "no model 'bert-bass'; did you mean 'bert-base'?" in done.output


class FakeMeter:
    """A fake of NVML's counter: 1 J for each call of the work, whatever the time."""

    info = MeterInfo("nvml", ("gpu-0",), "measured", "device", 0.02, 1e-3, "fake")

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> Reading:
        return Reading(time.monotonic(), {"gpu-0": self.joules})

    def close(self) -> None:
        """Nothing to close."""


def test_joules_are_per_item_and_every_window_is_synchronised() -> None:
    meter, waits = FakeMeter(), []

    def work() -> None:
        meter.joules += 1.0

    found = side_by_side(
        {"a": work, "b": work}, 4, meter, blocks=3, seconds=1e-4, seed=0, synchronize=lambda: waits.append(1)
    )
    assert found["a"]["joules"] == found["b"]["joules"] == [0.25] * 3
    assert all(seconds > 0 for seconds in found["a"]["seconds"])
    windows = 2 * 2 * 3
    assert len(waits) == windows + meter.joules


def blocks(*joules: float) -> dict[str, list[float]]:
    return {"joules": list(joules), "seconds": [1.0] * len(joules)}


def test_what_costs_more_is_named_only_beyond_the_detection_limit() -> None:
    fp32, twin, bf16 = FORMS[0].name, FORMS[1].name, FORMS[2].name
    found = judged(
        {
            fp32: blocks(1.0, 1.01, 0.99, 1.0),
            twin: blocks(1.01, 1.0, 0.99, 1.0),
            bf16: blocks(0.5, 0.51, 0.5, 0.5),
            "int8 dynamic, compiled": blocks(0.8, 0.81, 0.79, 0.8),
            "int8 weights, eager": blocks(1.3, 1.31, 1.29, 1.3),
        }
    )
    assert found["control_passed"]
    assert 0 < found["detection_limit"] < 0.03
    assert [(cost["form"], cost["against"]) for cost in found["costs"]] == [
        ("int8 dynamic, compiled", bf16),
        ("int8 weights, eager", fp32),
        ("int8 weights, eager", bf16),
    ]
    assert found["forms"][bf16]["ratio to fp32"]["ratio"] == pytest.approx(0.5, abs=0.01)


def test_a_failed_control_voids_the_verdicts() -> None:
    found = judged(
        {
            FORMS[0].name: blocks(1.0, 1.0, 1.001),
            FORMS[1].name: blocks(1.1, 1.1, 1.101),
            "int8 weights, eager": blocks(2.0, 2.0, 2.001),
        }
    )
    assert not found["control_passed"]
    assert found["costs"] == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_in_its_forms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_models, "PROMPT", 4)
    monkeypatch.setattr(gpu_models, "NEW", 2)
    for form in [form for form in FORMS if not form.compiled and form.name != "fp32 (A/A)"]:
        work = work_of(name, in_form(build(name, small=True), form, "cpu"), form, 2, "cpu")
        with torch.inference_mode():
            found = work()
        assert found.shape == (2, 6) if name == "llama-1b" else found.logits.dtype is form.dtype


def test_a_form_without_a_kernel_says_so() -> None:
    form = Form("fp8", torch.bfloat16, False, "torchao-fp8")
    with pytest.raises(MethodError, match="torchao-fp8: has no kernel on a CPU"):
        in_form(build("bert-base", small=True), form, "cpu")


def test_a_case_without_its_baseline_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("not enough memory\nfor it")

    forgotten: list[bool] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(True))
    monkeypatch.setattr(gpu_energy, "free_memory", lambda: None)
    monkeypatch.setattr(gpu_energy, "_ready", fails)
    message = "bert-base, batch 8: fp32 does not run: OutOfMemoryError: not enough memory"
    with pytest.raises(MeasurementError, match=message):
        gpu_energy.case("bert-base", 8, FakeMeter(), 3, 0.01, 0)
    # Shapes of the case before would have made the compiler write code for shapes of any size.
    assert forgotten == [True]


def pretend_a_gpu(monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
    """A mock of torch's and NVML's answers; nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Mock GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="11-22"))
    nvml = types.SimpleNamespace(nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetUUID=lambda _: "GPU-11-22")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpu_energy, "open_nvml", FakeMeter)
    monkeypatch.setattr(gpu_energy, "machine", lambda: None)
    monkeypatch.setattr(gpu_energy, "against_power", lambda *_: {})
    monkeypatch.setattr(gpu_energy, "free_memory", lambda: None)
    monkeypatch.setattr(gpu_energy, "RESULTS", results)
    monkeypatch.setattr("benchmarks.recording.RESULTS", results)


def test_other_processes_on_the_gpu_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class RefusedError(Exception):
        """A mock of NVML's error."""

    def refuse(_: object) -> list[object]:
        raise RefusedError

    nvml = types.SimpleNamespace(NVMLError=RefusedError, nvmlDeviceGetHandleByIndex=lambda index: index)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    for listed, wanted in ((["this one"], 0), (["this one", "a", "b"], 2), ([], 0)):
        nvml.nvmlDeviceGetComputeRunningProcesses = lambda _, listed=listed: listed
        assert gpu_energy.others() == wanted
    nvml.nvmlDeviceGetComputeRunningProcesses = refuse
    assert gpu_energy.others() is None


def test_a_case_that_does_not_fit_ends_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_a_gpu(monkeypatch, tmp_path)

    def case(name: str, batch: int, *_: Any) -> dict[str, Any]:
        if batch == 32:
            raise MeasurementError("fp32 does not run: out of memory", where=f"{name}, batch {batch}")
        found = judged({form.name: blocks(1.0, 1.01, 0.99) for form in FORMS[:2]})
        return {"model": name, "batch": batch, "per": "item", **found, "not_run": {}}

    monkeypatch.setattr(gpu_energy, "case", case)
    done = CliRunner().invoke(main, ["--models", "bert-base", "--batches", "32,8", "--window-s", "2"])
    assert done.exit_code == 0, done.output
    assert "not run: bert-base, batch 32: fp32 does not run: out of memory" in done.output
    assert "2 cases: 7 min of windows; loading and compiling come on top" in done.output
    assert list(json.loads((tmp_path / "gpu-mock-gpu.json").read_text())["cases"]) == ["bert-base, batch 8"]


def test_another_gpu_than_the_one_that_is_read_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_a_gpu(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="33-44"))
    done = CliRunner().invoke(main, [])
    assert done.output.startswith(
        "not run: cuda:0 is GPU-33-44 and NVML's gpu-0 is GPU-11-22; unset CUDA_VISIBLE_DEVICES and set "
    )
    assert list(tmp_path.iterdir()) == []
