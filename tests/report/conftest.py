"""Reports with invented figures: fictional test data, doctored to hold every case a report must tell honestly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from compressor.compare import break_even, compare, control
from compressor.results import (
    Artifact,
    Environment,
    KernelCounts,
    Latency,
    Measurement,
    MeterInfo,
    ModelSummary,
    Parity,
    Plan,
    Rejected,
    Report,
    RuntimeInfo,
    Score,
    StageCost,
    Step,
    TaskSummary,
    TensorSpec,
    Trial,
)

CPU_TIME_METER = MeterInfo(
    "cpu-time", ("cpu",), "estimated", "process", 0.0, 0.0, "10 W per busy core (unknown CPU, fictional)"
)
RAPL = MeterInfo(
    "rapl",
    ("package-0", "dram"),
    "measured",
    "package",
    0.001,
    6.1e-5,
    "powercap energy_uj (fictional)",
    ("package-0",),
)
IMAGE = TensorSpec("x", "float32", (None, 1, 28, 28))
LOGITS = TensorSpec("logits", "float32", (None, 10))


@dataclass(frozen=True)
class Arm:
    """What is invented of an arm."""

    name: str
    role: str = "baseline"
    runtime: str = "onnxruntime"
    cpu_ms: float = 1.0
    correct: int = 9193
    size: int = 305_000
    precision: str = "fp32"


ARMS = (
    Arm("PyTorch fp32", runtime="torch", cpu_ms=2.31),
    Arm("ONNX fp32", cpu_ms=1.02),
    Arm("ONNX fp32 (A/A)", role="control", cpu_ms=1.02),
    Arm("ONNX int8", role="candidate", cpu_ms=0.37, correct=9188, size=97_400, precision="int8"),
)


def measurement(
    arm: Arm,
    *,
    meters: tuple[MeterInfo, ...],
    blocks: int = 6,
    noise: float = 0.02,
    shift: float = 0.0,
    examples: int = 10_000,
    scored: bool = True,
    missing: frozenset[str] = frozenset(),
    watts: float = 14.0,
) -> Measurement:
    """One arm with trials drawn around its CPU time."""
    dice = random.Random(f"{arm.name}/{blocks}/{noise}")
    trials = []
    for block in range(blocks):
        cpu_s = arm.cpu_ms * 1e-3 * 2048 * math.exp(dice.gauss(shift, noise))
        joules = {
            f"{meter.name}/{domain}": cpu_s * (10.0 if meter.provenance == "estimated" else watts) * (0.2 if i else 1.0)
            for meter in meters
            for i, domain in enumerate(meter.domains)
        }
        kept = {key: value for key, value in joules.items() if key not in missing}
        trials.append(Trial(block, 2048, cpu_s * 1.04, cpu_s, kept, 0.01, 61.0))
    base = arm.cpu_ms * 1e-3 * 32
    curve = tuple(base * (0.9 + 0.2 * i / 100 + 0.9 * (i / 100) ** 24) for i in range(101))
    low = arm.precision != "fp32"
    kernels = KernelCounts(
        compute=21,
        low_precision=20 if low else 0,
        precision=arm.precision,
        by_op={"QLinearConv": 20, "Gemm": 1, "QuantizeLinear": 1} if low else {"Conv": 20, "Gemm": 1, "Relu": 17},
        left={"/head/Gemm": "too sensitive: 0.4 points"} if low else {},
    )
    steps = (Step("export", {"opset": 20}), Step("int8", {"per_channel": True}, ("chose static: convolutional",)))
    right = tuple(1.0 if i < arm.correct * examples // 10_000 else 0.0 for i in range(examples))
    return Measurement(
        arm=arm.name,
        role=arm.role,  # type: ignore[arg-type]
        artifact=Artifact(
            path="model.onnx" if low else "baseline.onnx",
            format="pt2" if arm.runtime == "torch" else "onnx",
            sha256="ab" * 32,
            size_bytes=arm.size,
            inputs=(IMAGE,),
            outputs=(LOGITS,),
            opset=None if arm.runtime == "torch" else 20,
            parameters=77_850,
            steps=steps if low else steps[:1],
        ),
        runtime=RuntimeInfo(arm.runtime, "9.9-fictional", "cpu", {"intra_op_num_threads": "1"}),
        kernels=None if arm.runtime == "torch" else kernels,
        plan=Plan("default", 32, 1, blocks, 1.0, 0.5, 20.0, 0),
        environment=Environment(
            cpu="Fictional CPU @ 2.5 GHz",
            cpu_features=("avx512f", "avx512_vnni"),
            cores=2,
            memory_bytes=8_000_000_000,
            gpus=(),
            os="Linux 6.0-fictional",
            governor=None,
            turbo=None,
            virtual="kvm",
            temperature_c=None,
            foreign_load=0.012,
            versions={"python": "3.11.0", "torch": "2.13.0", "onnxruntime": "1.31.0"},
        ),
        meters=meters,
        trials=tuple(trials),
        rejected=(Rejected(2, arm.name, "foreign load: others kept 31 % of the cores busy"),) if low else (),
        idle_power_w={f"{m.name}/{d}": 1.5 for m in meters if m.provenance == "measured" for d in m.domains},
        latency=Latency(640, curve[50], curve[90], curve[99], curve) if blocks else None,
        peak_memory_bytes=212_000_000 if arm.runtime == "torch" else 96_500_000,
        load_s=0.8,
        steady=True,
        score=Score("accuracy", sum(right) / examples, "fraction", True, right) if scored else None,
    )


def assemble(measurements: tuple[Measurement, ...], *, headline: str, warnings: tuple[str, ...] = ()) -> Report:
    """A report whose comparisons follow from its trials."""
    by_role = {role: [m for m in measurements if m.role == role] for role in ("baseline", "control", "candidate")}
    originals = [m for m in by_role["baseline"] if m.runtime.name == "onnxruntime"] or by_role["baseline"]
    controls = tuple(c for twin in by_role["control"] for c in control(originals[0], twin))
    baselines = [*originals, *(m for m in by_role["baseline"] if m not in originals)]
    comparisons = tuple(compare(b, c, controls) for c in by_role["candidate"] for b in baselines)
    keys = {key for m in measurements for t in m.trials for key in t.energy_j}
    stages = tuple(
        StageCost(stage, seconds, seconds * 1.6, {key: seconds * 16 for key in sorted(keys)})
        for stage, seconds in (("load", 0.6), ("export", 4.2), ("int8", 9.5), ("score", 61.0))
    )
    paid = tuple(e for c in by_role["candidate"][:1] for b in baselines for e in break_even(b, c, stages))
    return Report(
        schema=1,
        tool="compressor 0.0-fictional",
        created_utc="2030-01-02T03:04:05Z",
        headline=headline,
        warnings=warnings,
        model=ModelSummary("resnet8", "models/resnet8.pt2", "exported program", "cd" * 32, 330_000, 77_850, (IMAGE,)),
        task=TaskSummary("fashion-mnist (fictional scores)", "accuracy", False, 512, 10_000),
        methods=("int8",),
        parity={m.arm: Parity("torch", 64, 3e-6, 8e-7, 1.0, 1e-3) for m in originals},
        measurements=measurements,
        control=controls,
        comparisons=comparisons,
        stages=stages,
        break_even=paid,
        settings={"method": "int8", "batch": 32, "max_loss": 0.01, "seed": 0, "data": None},
        command="compress --method int8 models/resnet8.pt2 --data fashion-mnist",
        notes=("Inputs were scaled to 0..1 (fictional).",),
    )


def build(meters: tuple[MeterInfo, ...] = (CPU_TIME_METER,), arms: tuple[Arm, ...] = ARMS, **options: object) -> Report:
    """A report of the usual four arms."""
    headline = str(options.pop("headline", "Fictional headline: CPU time fell; energy was not measured here."))
    warnings = tuple(options.pop("warnings", ()))  # type: ignore[call-overload]
    per_arm = tuple(measurement(arm, meters=meters, **options) for arm in arms)  # type: ignore[arg-type]
    return assemble(per_arm, headline=headline, warnings=warnings)


def swap(arms: tuple[Arm, ...], name: str, **changes: object) -> tuple[Arm, ...]:
    """The arms with one of them changed."""
    return tuple(replace(a, **changes) if a.name == name else a for a in arms)  # type: ignore[arg-type]


def estimated() -> Report:
    return build(
        headline="64 % less CPU time per inference than ONNX fp32; energy not measured here.",
        warnings=("Energy is estimated from CPU time: no meter could be read on this machine.",),
    )


def measured() -> Report:
    return build(
        (RAPL,),
        headline="64 % less energy per inference than ONNX fp32, measured by rapl; accuracy retained within 1 point.",
    )


def control_failed() -> Report:
    arms = swap(ARMS, "ONNX fp32 (A/A)", cpu_ms=1.31)
    return build((RAPL,), arms, headline="Void: the A/A control failed.", warnings=("The A/A control failed.",))


def across_one() -> Report:
    arms = swap(ARMS, "ONNX int8", cpu_ms=1.015)
    return build((RAPL,), arms, noise=0.05, headline="No saving established: the interval holds 1.")


def missing_domain() -> Report:
    report = build((RAPL,), headline="64 % less energy per inference than ONNX fp32, measured by rapl.")
    without = tuple(
        replace(
            m, trials=tuple(replace(t, energy_j={"rapl/package-0": t.energy_j["rapl/package-0"]}) for t in m.trials)
        )
        for m in report.measurements
    )
    return assemble(without, headline=report.headline, warnings=("rapl/dram gave no reading.",))


def mixed() -> Report:
    """The candidate's energy is estimated by a meter that measured the baseline's."""
    report = measured()
    fake = replace(RAPL, provenance="estimated")
    swapped = tuple(replace(m, meters=(fake,)) if m.role == "candidate" else m for m in report.measurements)
    return assemble(swapped, headline="Energy is not comparable: measured in one arm, estimated in the other.")


def worse() -> Report:
    arms = swap(ARMS, "ONNX int8", cpu_ms=5.6, correct=8700)
    return build((RAPL,), arms, headline="Costs more: 5.5× the energy of ONNX fp32, measured by rapl; accuracy lost.")


def nothing_measured() -> Report:
    report = measured()
    arms = tuple(
        replace(m, trials=(), latency=None, rejected=tuple(Rejected(i, m.arm, "the worker died") for i in range(6)))
        if m.role == "candidate"
        else m
        for m in report.measurements
    )
    return assemble(arms, headline="Nothing measured: ONNX int8 finished no block.")


def synthetic() -> Report:
    report = estimated()
    task = TaskSummary("synthetic", "agreement", True, 128, 1_000)
    return replace(report, task=task, headline="64 % less CPU time; agreement on synthetic inputs, not accuracy.")


def no_task() -> Report:
    return build(scored=False, headline="64 % less CPU time per inference; no task was given.")


CASES: dict[str, Callable[[], Report]] = {
    "estimated": estimated,
    "measured": measured,
    "control failed": control_failed,
    "across one": across_one,
    "missing domain": missing_domain,
    "mixed": mixed,
    "worse": worse,
    "nothing measured": nothing_measured,
    "synthetic": synthetic,
    "no task": no_task,
}


@pytest.fixture(scope="session")
def reports() -> dict[str, Report]:
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="session")
def make_many() -> Callable[[int, int], Report]:
    def make(count: int, blocks: int) -> Report:
        arms = (
            *ARMS[:3],
            *(
                Arm(f"ONNX int8 variant {i}", "candidate", cpu_ms=0.3 + 0.02 * i, correct=9100 + i, precision="int8")
                for i in range(count - 3)
            ),
        )
        return build((RAPL,), arms, blocks=blocks)

    return make


@pytest.fixture(scope="session")
def fictional_names() -> Callable[[str], Report]:
    return lambda name: build((RAPL,), (*ARMS[:3], replace(ARMS[3], name=name)))


@pytest.fixture(scope="session")
def hostile() -> Report:
    """Every free text of a report holds what could break a format."""
    nasty = "<script>alert(1)</script>\x1b[31mred\x1b[0m\n| `pipe` | **b** \u202ertl" + "x" * 10_000
    report = estimated()
    arms = {m.arm: f"{m.arm} {nasty}" for m in report.measurements}
    renamed = tuple(
        replace(
            m,
            arm=arms[m.arm],
            artifact=replace(m.artifact, path=nasty, steps=(Step(nasty, {nasty: nasty}, (nasty,)),)),
            runtime=replace(m.runtime, version=nasty, options={nasty: nasty}),
            kernels=m.kernels and replace(m.kernels, by_op={nasty: 1}, left={nasty: nasty}),
            environment=replace(m.environment, cpu=nasty, os=nasty, versions={nasty: nasty}),
            rejected=(Rejected(0, arms[m.arm], nasty),),
        )
        for m in report.measurements
    )
    whole = assemble(renamed, headline=f"{nasty}", warnings=(nasty,))
    return replace(
        whole,
        model=replace(whole.model, name=nasty, path=nasty, inputs=(replace(IMAGE, name=nasty),)),
        task=replace(whole.task, name=nasty, metric=nasty),
        settings={nasty: nasty},
        command=nasty,
        notes=(nasty,),
        parity={arms["ONNX fp32"]: Parity(nasty, 1, 0.0, 0.0, None, None)},
    )
