"""Reports with invented figures: fictional test data, doctored to hold every case a report must tell honestly."""

from __future__ import annotations

import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import pytest

from compressor.compare import break_even, compare, control
from compressor.report.headline import headline, warnings_of
from compressor.report.html import render_html
from compressor.results import (
    SCHEMA,
    Artifact,
    ClassMoved,
    Confusion,
    Environment,
    Flip,
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
    SensitivityRow,
    StageCost,
    Step,
    TaskSummary,
    TensorSpec,
    Trial,
    Usage,
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
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNsYIAAJgaKGAAmCACQXTClHgAAAABJRU5ErkJggg=="
"""A picture of eight by eight grey points."""
USAGE = Usage(country="DE", pue=1.2, inferences=10_000_000, training_kwh=0.5, embodied_g=1000.0)
SENSITIVITY = (
    SensitivityRow("stem/Conv", "Conv", 0.002, 0.97, True),
    SensitivityRow("layer1/Conv", "Conv", 0.011, 0.81, True),
    SensitivityRow("layer2/Conv", "Conv", 0.034, 1.06, False),
    SensitivityRow("head/Gemm", "Gemm", 0.21, None, False),
)


def moved(baseline: str, candidate: str) -> Confusion:
    """Ten classes, five answers broken and one mended, in figures that add up."""
    classes = [ClassMoved(f"class {i}", 1000, 919, 919, 0) for i in range(10)]
    classes[3] = ClassMoved("class 3", 1000, 919, 915, 5)
    flips = (
        Flip(17, "class 3", "class 3", "class 4", DOT),
        Flip(99, "class 3", "class 1", "class 3", "", "a text of three"),
    )
    return Confusion(baseline, candidate, tuple(classes), 5, 1, 2, flips)


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
    steps = (
        Step("export", {"opset": 20}),
        Step("int8", {"per_channel": True}, ("chose static: convolutional",), SENSITIVITY),
    )
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
            macs=None if arm.runtime == "torch" else 12_500_000,
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


def retold(report: Report) -> Report:
    """The report with the headline and the warnings that follow from it."""
    return replace(report, headline=headline(report), warnings=warnings_of(report))


def assemble(measurements: tuple[Measurement, ...], *, usage: Usage | None = None) -> Report:
    """A report whose comparisons follow from its trials, and whose headline and warnings follow from those."""
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
    classifies = by_role["candidate"] and by_role["candidate"][0].score is not None
    report = Report(
        schema=SCHEMA,
        tool="compressor 0.0-fictional",
        created_utc="2030-01-02T03:04:05Z",
        headline="",
        warnings=(),
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
        confusion=moved(originals[0].arm, by_role["candidate"][0].arm) if classifies else None,
        usage=usage,
    )
    return retold(report)


def build(meters: tuple[MeterInfo, ...] = (CPU_TIME_METER,), arms: tuple[Arm, ...] = ARMS, **options: object) -> Report:
    """A report of the usual four arms."""
    usage = options.pop("usage", None)
    per_arm = tuple(measurement(arm, meters=meters, **options) for arm in arms)  # type: ignore[arg-type]
    return assemble(per_arm, usage=usage)  # type: ignore[arg-type]


def swap(arms: tuple[Arm, ...], name: str, **changes: object) -> tuple[Arm, ...]:
    """The arms with one of them changed."""
    return tuple(replace(a, **changes) if a.name == name else a for a in arms)  # type: ignore[arg-type]


def estimated() -> Report:
    return build(usage=USAGE)


def measured() -> Report:
    return build((RAPL,), usage=USAGE)


def control_failed() -> Report:
    return build((RAPL,), swap(ARMS, "ONNX fp32 (A/A)", cpu_ms=1.31), usage=USAGE)


def across_one() -> Report:
    return build((RAPL,), swap(ARMS, "ONNX int8", cpu_ms=1.015), noise=0.05, usage=USAGE)


def missing_domain() -> Report:
    return build((RAPL,), missing=frozenset({"rapl/dram"}), usage=USAGE)


def mixed() -> Report:
    """The candidate's energy is estimated by a meter that measured the baseline's."""
    report = measured()
    fake = replace(RAPL, provenance="estimated")
    return assemble(tuple(replace(m, meters=(fake,)) if m.role == "candidate" else m for m in report.measurements))


def worse() -> Report:
    return build((RAPL,), swap(ARMS, "ONNX int8", cpu_ms=5.6, correct=8700), usage=USAGE)


def nothing_measured() -> Report:
    report = measured()
    arms = tuple(
        replace(m, trials=(), latency=None, rejected=tuple(Rejected(i, m.arm, "the worker died") for i in range(6)))
        if m.role == "candidate"
        else m
        for m in report.measurements
    )
    return assemble(arms)


def synthetic() -> Report:
    task = TaskSummary("synthetic", "agreement", True, 128, 1_000)
    return retold(replace(estimated(), task=task, confusion=None))


def no_task() -> Report:
    return build(scored=False)


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


class Pages(dict[str, str]):
    """The page of every case, drawn when it is first asked for: the plots are what takes time."""

    def __init__(self, reports: dict[str, Report]) -> None:
        super().__init__()
        self.reports = reports

    def __missing__(self, case: str) -> str:
        self[case] = render_html(self.reports[case])
        return self[case]

    def figures(self, case: str) -> dict[str, str]:
        """The plots in a page, by their keys."""
        return dict(re.findall(r'<figure id="figure-(\w+)">(<svg.*?</svg>)', self[case], re.DOTALL))


@pytest.fixture(scope="session")
def pages(reports: dict[str, Report], hostile: Report) -> Pages:
    return Pages({**reports, "hostile": hostile})


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
def fictional() -> ModuleType:
    """This module, for tests that doctor reports of their own."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def fictional_names() -> Callable[[str], Report]:
    return lambda name: build((RAPL,), (*ARMS[:3], replace(ARMS[3], name=name)))


@pytest.fixture(scope="session")
def hostile() -> Report:
    """Every free text of a report holds what could break a format."""
    # What a spreadsheet would take for a formula stands first.
    nasty = "=cmd|' /C calc'!A0 <script>alert(1)</script>\x1b[31mred\x1b[0m\n| `pipe` | **b** \u202ertl" + "x" * 10_000
    report = estimated()
    bad_layers = tuple(replace(row, layer=f"{nasty}{i}", op=nasty) for i, row in enumerate(SENSITIVITY))
    arms = {m.arm: f"{nasty} {m.arm}" for m in report.measurements}
    renamed = tuple(
        replace(
            m,
            arm=arms[m.arm],
            artifact=replace(m.artifact, path=nasty, steps=(Step(nasty, {nasty: nasty}, (nasty,), bad_layers),)),
            runtime=replace(m.runtime, version=nasty, options={nasty: nasty}),
            kernels=m.kernels and replace(m.kernels, by_op={nasty: 1}, left={nasty: nasty}),
            environment=replace(m.environment, cpu=nasty, os=nasty, versions={nasty: nasty}),
            rejected=(Rejected(0, arms[m.arm], nasty),),
        )
        for m in report.measurements
    )
    whole = assemble(renamed, usage=USAGE)
    confusion = moved(arms["ONNX fp32"], arms["ONNX int8"])
    confusion = replace(
        confusion,
        classes=tuple(replace(one, name=f"{nasty}{i}") for i, one in enumerate(confusion.classes)),
        flips=tuple(replace(one, target=nasty, before=nasty, after=nasty, text=nasty) for one in confusion.flips),
    )
    return replace(
        whole,
        headline=nasty,
        warnings=(nasty,),
        confusion=confusion,
        model=replace(whole.model, name=nasty, path=nasty, inputs=(replace(IMAGE, name=nasty),)),
        task=replace(whole.task, name=nasty, metric=nasty),
        settings={nasty: nasty},
        command=nasty,
        notes=(nasty,),
        parity={arms["ONNX fp32"]: Parity(nasty, 1, 0.0, 0.0, None, None)},
    )
