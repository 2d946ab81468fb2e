"""Measurements whose figures are invented: for tests of what is done with them, not of how they come about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from compressor.benchmark.runner import Arm, BenchmarkResult
from compressor.environment import describe_environment
from compressor.results import Artifact, Environment, Measurement, MeterInfo, Plan, RuntimeInfo, Trial
from compressor.runtimes.registry import FORMATS

METER = MeterInfo("cpu-time", ("cpu",), "estimated", "process", 0.0, 0.0, "invented")
COST_S = {"torch-compile": 1.0, "torch": 3.0, "onnxruntime": 2.0, "openvino": 1.0}
"""CPU seconds of a call, by runtime; what was compressed takes half."""
BLOCKS = 4

MACHINE = Environment("cpu", (), 2, 2**30, (), "linux", None, None, None, None, 0.0, {})
ARTIFACT = Artifact("model.onnx", "onnx", "00", 1000, (), (), 18, 10, ())
PLAN = Plan("quick", 1, 1, 5, 1.0, 1.0, 3.0, 0)


def measurement(arm: str, trials: Sequence[Trial], *meters: MeterInfo, **fields: Any) -> Measurement:
    """A baseline on ONNX Runtime that gave these trials, but for the fields that are named."""
    whole = Measurement(
        arm=arm,
        role="baseline",
        artifact=ARTIFACT,
        runtime=RuntimeInfo("onnxruntime", "1", "cpu", {}),
        kernels=None,
        plan=PLAN,
        environment=MACHINE,
        meters=meters,
        trials=tuple(trials),
        rejected=(),
        idle_power_w={},
        latency=None,
        peak_memory_bytes=None,
        load_s=1.0,
        steady=True,
        score=None,
    )
    return replace(whole, **fields)


def invented_benchmark(arms: Sequence[Arm], inputs: Any, plan: Plan, **_: Any) -> BenchmarkResult:
    """Stands in for :func:`compressor.benchmark.runner.run_benchmark`: real arms, no worker, figures from nowhere."""
    environment = describe_environment(0.0)
    found = []
    for arm in arms:
        name = arm.runtime or FORMATS[arm.path.suffix]
        cost = COST_S[name] * (0.5 if arm.role in ("candidate", "stage") else 1.0)
        noise = 1e-3 if arm.role == "control" else 0.0
        trials = tuple(
            Trial(i, 1, cost, cost * (1 + 1e-3 * i + noise * (-1) ** i), {"cpu-time/cpu": 10 * cost}, 0.0, None)
            for i in range(BLOCKS)
        )
        runtime = RuntimeInfo(name, "9", arm.device, {})
        given = {"role": arm.role, "artifact": arm.artifact, "kernels": arm.kernels, "score": arm.score}
        found.append(measurement(arm.name, trials, METER, runtime=runtime, plan=plan, environment=environment, **given))
    return BenchmarkResult(tuple(found), (), False)
