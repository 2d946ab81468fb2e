"""Two saved measurements side by side; every figure here is invented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented import ARTIFACT, MACHINE, measurement

from compressor import compare
from compressor.across import UNPAIRED, compare_files
from compressor.errors import MeasurementError
from compressor.results import (
    BenchRecord,
    BenchRun,
    MeterInfo,
    Plan,
    RuntimeInfo,
    TaskSummary,
    Trial,
    Workload,
)
from compressor.store.records import dump_report

RAPL = MeterInfo("rapl", ("package-0",), "measured", "package", 1e-3, 1e-6, "powercap")
CPU = MeterInfo("cpu-time", ("cpu",), "estimated", "process", 0.0, 0.0, "10 W a core")
PLAN = Plan("quick", 1, 1, 8, 1.0, 1.0, 3.0, 0)


def arm(name: str, role: Any, ms: float, seed: int, meter: MeterInfo, noise: float = 0.005, **fields: Any) -> Any:
    seconds = 1e-3 * ms * np.random.default_rng(seed).lognormal(0, noise, 8)
    key = f"{meter.name}/{meter.domains[0]}"
    trials = tuple(Trial(i, 100, 100 * s, 100 * s, {key: 2000 * s}, 0.0, None) for i, s in enumerate(seconds.tolist()))
    own = {
        "role": role,
        "artifact": replace(ARTIFACT, path=name),
        "runtime": RuntimeInfo("onnxruntime", "1.31", "cpu", {}),
    }
    return measurement(name, trials, meter, **{**own, "plan": PLAN, "idle_power_w": {key: 3.0}, **fields})


def one_run(cand_ms: float, seed: int, meter: MeterInfo = RAPL, twin_ms: float = 10.0, **fields: Any) -> BenchRun:
    base = arm("base.onnx", "baseline", 10.0, seed, meter, **fields)
    cand = arm("new.onnx", "candidate", cand_ms, seed + 1, meter, **fields)
    twin = arm("base.onnx (A/A)", "control", twin_ms, seed + 2, meter, **fields)
    controls = compare.control(base, twin)
    return BenchRun((base, cand, twin), controls, (compare.compare(base, cand, controls),), ())


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(name: str, *runs: BenchRun, task: str = "digits") -> Path:
        summary = TaskSummary(task, "accuracy", False, 10, 100)
        record = BenchRecord(1, "compressor 0", "2026-01-01T00:00:00+00:00", summary, runs, False, {"seed": 0}, "")
        (tmp_path / name).write_text(dump_report(record))
        return tmp_path / name

    return save


def test_the_candidates_are_compared_by_welch(write: Write) -> None:
    before, after = one_run(10.0, 1), one_run(5.0, 10)
    found = compare_files(write("a.json", before), write("b.json", after), wish="better")
    (pair,) = found.pairs
    assert (pair.comparison.baseline, pair.comparison.candidate) == ("new.onnx", "new.onnx")
    deltas = {d.metric: d for d in pair.comparison.deltas}
    energy = deltas["energy per inference (rapl)"]
    assert energy.ratio == pytest.approx(0.5, rel=0.01)
    assert energy.verdict == "better"
    assert not any(metric.startswith("energy above idle") for metric in deltas)
    assert found.notes == (UNPAIRED,)
    assert found.gate is not None
    assert found.gate.met
    assert found.gate.reasons == ("batch 1, 1 thread: energy per inference (rapl) is better",)


def test_the_larger_detection_limit_counts_and_a_failed_control_voids(write: Write) -> None:
    quiet, noisy = one_run(10.0, 1), one_run(9.9, 10, noise=0.03)
    (pair,) = compare_files(write("a.json", quiet), write("b.json", noisy)).pairs
    limits = {c.metric: c.detection_limit for run in (quiet, noisy) for c in run.control}
    assert {c.metric: c.detection_limit for c in pair.control} == limits
    failed = one_run(5.0, 20, twin_ms=11.0)
    found = compare_files(write("a.json", quiet), write("c.json", failed), wish="not-worse")
    energy = found.pairs[0].comparison.deltas[0]
    assert (energy.verdict, energy.reason) == (
        "not established",
        "the A/A control failed: two workers on one file differ",
    )
    assert found.gate is not None
    assert not found.gate.met


@pytest.mark.parametrize(
    ("ms", "wish", "met"),
    [(8.0, "better", True), (10.0, "better", False), (10.0, "not-worse", True), (12.0, "not-worse", False)],
)
def test_gate(ms: float, wish: Any, met: bool, write: Write) -> None:
    found = compare_files(write("a.json", one_run(10.0, 1)), write("b.json", one_run(ms, 10)), wish=wish)
    assert found.gate is not None
    assert found.gate.met is met


def test_gate_falls_back_to_cpu_time_and_says_so(write: Write) -> None:
    a, b = write("a.json", one_run(10.0, 1, CPU)), write("b.json", one_run(5.0, 10, CPU))
    found = compare_files(a, b, wish="better")
    assert found.gate is not None
    assert found.gate.reasons == ("batch 1, 1 thread: CPU time per inference (energy was not measured) is better",)


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"environment": replace(MACHINE, cpu="another")}, "environment.cpu (cpu against another)"),
        ({"runtime": RuntimeInfo("torch", "2", "cpu", {})}, "runtime.name (onnxruntime against torch)"),
        ({"meter": replace(RAPL, provenance="replayed")}, "meters ("),
        ({"meter": CPU}, "meters ("),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_keys(fields: dict[str, Any], keys: str, write: Write) -> None:
    a, b = write("a.json", one_run(10.0, 1)), write("b.json", one_run(5.0, 10, **fields))
    with pytest.raises(MeasurementError) as caught:
        compare_files(a, b)
    assert str(caught.value).startswith(f"{b}: cannot be compared with {a}, as these differ: {keys}")


def test_other_watts_are_other_joules(write: Write) -> None:
    a = write("a.json", one_run(10.0, 1, CPU))
    b = write("b.json", one_run(5.0, 10, replace(CPU, source="20 W a core")))
    with pytest.raises(MeasurementError, match="as these differ: meters"):
        compare_files(a, b)


def test_other_data_are_refused(write: Write) -> None:
    a, b = write("a.json", one_run(10.0, 1)), write("b.json", one_run(5.0, 10), task="letters")
    with pytest.raises(MeasurementError, match=r"as these differ: task \(digits against letters\)$"):
        compare_files(a, b)


def test_runs_are_matched_by_batch_and_threads(write: Write) -> None:
    wide = replace(PLAN, batch=8, threads=2)
    a = write("a.json", one_run(10.0, 1), one_run(10.0, 4, plan=wide))
    found = compare_files(a, write("b.json", one_run(5.0, 10, plan=wide)))
    assert [(pair.batch, pair.threads) for pair in found.pairs] == [(8, 2)]
    assert found.notes[1] == "Only one file has batch 1 on 1 thread; that is left out."
    b = write("c.json", one_run(5.0, 10, plan=replace(PLAN, batch=2)))
    with pytest.raises(MeasurementError) as caught:
        compare_files(a, b)
    assert str(caught.value) == (
        f"{b}: cannot be compared with {a}: plan.batch, plan.threads or the phase differ "
        "(batch 2 on 1 thread against batch 1 on 1 thread, batch 8 on 2 threads); "
        "measure both at the same --batch and --threads"
    )


def test_prefill_and_decode_are_two_pairs(write: Write) -> None:
    prefill, decode = (replace(PLAN, workload=Workload(phase, 128, 32)) for phase in ("prefill", "decode"))
    a = write("a.json", one_run(10.0, 1, plan=prefill), one_run(10.0, 4, plan=decode))
    b = write("b.json", one_run(5.0, 10, plan=prefill), one_run(20.0, 14, plan=decode))
    found = compare_files(a, b, wish="better")
    assert [pair.phase for pair in found.pairs] == ["prefill", "decode"]
    assert found.gate is not None
    assert [reason.partition(":")[0] for reason in found.gate.reasons] == [
        "prefill, batch 1, 1 thread",
        "decode, batch 1, 1 thread",
    ]
    assert not found.gate.met
    alone = compare_files(a, write("c.json", one_run(5.0, 10, plan=prefill)))
    assert alone.notes[1] == "Only one file has decode at batch 1 on 1 thread; that is left out."


def test_other_versions_are_told_not_refused(write: Write) -> None:
    newer = RuntimeInfo("onnxruntime", "1.32", "cpu", {})
    b = write("b.json", one_run(5.0, 10, runtime=newer, environment=replace(MACHINE, os="linux 7")))
    (pair,) = compare_files(write("a.json", one_run(10.0, 1)), b).pairs
    assert pair.notes == ("onnxruntime 1.31 before, 1.32 after.", "linux before, linux 7 after.")


def test_arm_is_picked_by_name(write: Write) -> None:
    a, b = write("a.json", one_run(5.0, 1)), write("b.json", one_run(5.0, 10))
    (pair,) = compare_files(a, b, arm="base.onnx").pairs
    assert pair.comparison.deltas[0].baseline.value == pytest.approx(0.2, rel=0.02)
    with pytest.raises(MeasurementError) as caught:
        compare_files(a, b, arm="bse.onnx")
    assert str(caught.value) == (
        f"{a}: has no arm 'bse.onnx'; did you mean 'base.onnx'? known: base.onnx, base.onnx (A/A), new.onnx"
    )


def test_several_candidates_need_a_name(write: Write) -> None:
    run = one_run(5.0, 1)
    third = replace(run.measurements[1], arm="third.onnx")
    a = write("a.json", replace(run, measurements=(*run.measurements, third)))
    with pytest.raises(MeasurementError, match=r"has 2 candidates; pick one with --arm: base\.onnx, new\.onnx, base"):
        compare_files(a, a)


def test_a_file_without_candidates_gives_its_first_arm(write: Write) -> None:
    run = one_run(5.0, 1)
    alone = replace(run, measurements=(run.measurements[0], run.measurements[2]), comparisons=())
    a = write("a.json", alone)
    assert compare_files(a, a).pairs[0].comparison.baseline == "base.onnx"


def test_arm_without_a_block_is_refused(write: Write) -> None:
    run = one_run(5.0, 1)
    empty = replace(
        run, measurements=tuple(replace(m, trials=()) for m in run.measurements), control=(), comparisons=()
    )
    a, b = write("a.json", run), write("b.json", empty)
    with pytest.raises(MeasurementError) as caught:
        compare_files(a, b)
    assert str(caught.value) == f"{b}: new.onnx: has no finished block; measure it again"


def test_report_of_the_main_job_can_be_compared(tmp_path: Path) -> None:
    import importlib.util
    import sys

    source = Path(__file__).parent / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fictional_reports_for_across", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    file = tmp_path / "report.json"
    file.write_text(dump_report(module.measured()))
    (pair,) = compare_files(file, file).pairs
    assert (pair.comparison.baseline, pair.comparison.candidate) == ("ONNX int8", "ONNX int8")
    assert all(delta.ratio == 1 and delta.verdict == "not established" for delta in pair.comparison.deltas)
