"""A benchmark whose figures are invented: for tests of what is done with them, not of how they come about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compressor.benchmark.runner import Arm, BenchmarkResult
from compressor.environment import describe_environment
from compressor.results import Measurement, MeterInfo, Plan, RuntimeInfo, Trial
from compressor.runtimes.registry import FORMATS

METER = MeterInfo("cpu-time", ("cpu",), "estimated", "process", 0.0, 0.0, "invented")
COST_S = {"torch-compile": 1.0, "torch": 3.0, "onnxruntime": 2.0, "openvino": 1.0}
"""CPU seconds of a call, by runtime; what was compressed takes half."""
BLOCKS = 4


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
        found.append(
            Measurement(
                arm=arm.name,
                role=arm.role,
                artifact=arm.artifact,
                runtime=RuntimeInfo(name, "9", arm.device, {}),
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
