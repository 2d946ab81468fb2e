"""What was found: immutable records with SI units in their names, and nothing that computes.

Every number that a report shows is in one of these, so a report can be rebuilt from its JSON on any machine. A value
that could not be had is ``None`` or an absent key with its reason in a note, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SCHEMA = 2
"""Version of the JSON written from :class:`Report` and :class:`BenchRecord`; raised whenever a reader of the old one
would misread the new."""

Provenance = Literal["measured", "estimated", "replayed"]
Scope = Literal["process", "package", "device", "board", "machine"]
Verdict = Literal["better", "worse", "not established"]
Retention = Literal["retained", "lost", "not established"]


# --- what a file holds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes:
        name: Its name in the file.
        dtype: NumPy's name of the element type, e.g. ``float32``.
        shape: One entry per axis; ``None`` where the size is free (the batch axis, a sequence).
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class SensitivityRow:
    """What low precision costs and brings in one layer.

    Attributes:
        layer: Name of the layer's node.
        op: Its operator.
        error: How far the model's first output moves when this layer alone is quantized, ``‖Δ‖ / ‖output‖``; ``None``
            where it was not measured.
        time_ratio: Time of the whole graph with the layer's group quantized over the time with it in fp32, below 1
            where quantizing pays; ``None`` where it was not measured.
        kept: Whether the layer is quantized in the result.
    """

    layer: str
    op: str
    error: float | None
    time_ratio: float | None
    kept: bool


@dataclass(frozen=True)
class Step:
    """One thing that was done to a model, in the order it was done.

    Attributes:
        method: The method's name, e.g. ``export`` or ``int8``.
        settings: Its settings as they were used, defaults included.
        notes: What it did and what it left alone, one sentence each.
        sensitivity: What was measured layer by layer; empty where nothing was.
    """

    method: str
    settings: Mapping[str, str | int | float | bool | None]
    notes: tuple[str, ...] = ()
    sensitivity: tuple[SensitivityRow, ...] = ()


@dataclass(frozen=True)
class KernelCounts:
    """Which arithmetic a runtime will really run, read off its optimised graph.

    Attributes:
        compute: Operators that do the model's arithmetic (convolutions, matrix products, recurrences).
        low_precision: How many of ``compute`` run in the low precision.
        precision: The low precision counted, e.g. ``int8``; ``fp32`` when none was asked for.
        by_op: All operators of the optimised graph and how often each occurs.
        left: Name of each compute operator that stays in high precision, and why.
    """

    compute: int
    low_precision: int
    precision: str
    by_op: Mapping[str, int]
    left: Mapping[str, str]


@dataclass(frozen=True)
class Artifact:
    """A model file that can be run; what is measured is what ships.

    Attributes:
        path: The file, relative to the run's folder.
        format: ``onnx``, ``pt2``, ``safetensors`` or ``torchao``.
        sha256: Over the file and its external data files, in name order.
        size_bytes: Of the file and its external data together.
        inputs: The model's inputs.
        outputs: The model's outputs.
        opset: ONNX operator set; ``None`` for other formats.
        parameters: Number of weights; ``None`` where the format does not say.
        steps: How it came about, from the user's model on.
        macs: Multiply-accumulates per example, of convolutions, matrix products and recurrences; ``None`` where they
            could not be counted. One of them is two floating-point operations.
        macs_shapes: Shapes of the inputs, without the batch, of the example that ``macs`` are for, where the file
            leaves sizes free; empty where it fixes them.
    """

    path: str
    format: str
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int | None
    parameters: int | None
    steps: tuple[Step, ...]
    macs: int | None = None
    macs_shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class ModelSummary:
    """The user's model as it came in.

    Attributes:
        name: Short name, from the file's.
        path: The file as the user gave it.
        format: What the content is: ``exported program``, ``TorchScript``, ``state dict``, ``safetensors``,
            ``pickled module`` or ``ONNX``.
        sha256: Of the file.
        size_bytes: Of the file.
        parameters: Number of weights.
        inputs: Its inputs.
        arch: The ``--arch`` that built it, if one was needed.
    """

    name: str
    path: str
    format: str
    sha256: str
    size_bytes: int
    parameters: int | None
    inputs: tuple[TensorSpec, ...]
    arch: str | None = None


@dataclass(frozen=True)
class TaskSummary:
    """The data and the score.

    Attributes:
        name: The data's name, e.g. ``fashion-mnist`` or the file's.
        metric: The metric's name.
        synthetic: True when no data were given: the inputs were drawn at random and the score is agreement with the
            original model, not accuracy.
        calibration_examples: How many examples calibration may see.
        test_examples: How many examples the score is computed on; none of them is among the former.
    """

    name: str
    metric: str
    synthetic: bool
    calibration_examples: int
    test_examples: int


@dataclass(frozen=True)
class Score:
    """How well a model does its task.

    Attributes:
        name: The metric's name.
        value: The score, in ``unit``.
        unit: E.g. ``fraction`` (0..1) or the unit of the target.
        higher_is_better: Direction of the metric.
        per_example: One number per test example that averages to ``value`` where the metric is such an average
            (1 or 0 for right or wrong, a squared error, …); ``None`` where it is not (f1, r2).
    """

    name: str
    value: float
    unit: str
    higher_is_better: bool
    per_example: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Parity:
    """How far an artifact's outputs are from the original's on the same inputs.

    Attributes:
        reference: What it is compared with, e.g. ``torch``.
        examples: Number of inputs compared.
        max_abs: Largest absolute difference of any output element.
        relative: Norm of the difference over norm of the reference.
        same_top1: Share of examples with the same largest output; ``None`` where outputs are not class scores.
        tolerance: The bound on ``relative`` that was required; ``None`` where none is.
    """

    reference: str
    examples: int
    max_abs: float
    relative: float
    same_top1: float | None
    tolerance: float | None


# --- where and how it was measured ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeterInfo:
    """What a meter is.

    Attributes:
        name: The meter's name.
        domains: The domains it reads; one that holds others is listed, never added to them.
        provenance: Where its joules come from.
        scope: What the joules cover.
        update_period_s: How often the counter moves, as probed or documented; 0 for a continuous clock.
        resolution_j: Smallest step of the counter.
        source: The counter, sensor or (for an estimate) the watts and where they are from.
        total: The domains that do not hold each other and together are the meter's total; empty if that is all of
            them. The others (a core inside a package) are listed beside it, never added.
    """

    name: str
    domains: tuple[str, ...]
    provenance: Provenance
    scope: Scope
    update_period_s: float
    resolution_j: float
    source: str
    total: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """Cumulative joules at a moment; only differences mean anything.

    Attributes:
        time_s: Monotonic clock.
        energy_j: Joules per domain since some fixed start. A domain that could not be read is absent.
        epoch: How often the meter has lost count since it was opened; readings of two epochs have no difference.
        busy_s: Seconds per domain in which a GPU ran anything, cumulative too; absent where it does not tell.
    """

    time_s: float
    energy_j: Mapping[str, float]
    epoch: int = 0
    busy_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeterStatus:
    """Whether a meter can be used on this machine.

    Attributes:
        name: The meter's name.
        usable: Whether it can be read now.
        info: What it is, if it is usable.
        why: Why it cannot be read; empty if it can.
        mend: The exact lines that would make it readable; empty if nothing would.
    """

    name: str
    usable: bool
    info: MeterInfo | None
    why: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Environment:
    """The machine.

    Attributes:
        cpu: Model name as the system gives it.
        cpu_features: The instruction sets that matter to low precision, e.g. ``avx512_vnni``.
        cores: Logical cores this process may use.
        memory_bytes: Physical memory.
        gpus: Names of the GPUs, if any.
        os: System and kernel.
        governor: Frequency governor; ``None`` where it cannot be read.
        turbo: Whether boost is on; ``None`` where it cannot be read.
        virtual: The hypervisor, or ``None`` on bare metal.
        temperature_c: Hottest CPU sensor at the start; ``None`` where there is none.
        foreign_load: Share of the cores that other processes kept busy just before the run, 0..1.
        versions: Versions of Python and of the libraries that decide speed.
    """

    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    os: str
    governor: str | None
    turbo: bool | None
    virtual: str | None
    temperature_c: float | None
    foreign_load: float
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Workload:
    """What one call of a causal language model is, where a token and not an example is the unit.

    Attributes:
        phase: ``prefill``: the prompt in one call; ``decode``: new tokens one by one behind a prompt that has run.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens that are decoded behind it.
    """

    phase: Literal["prefill", "decode"]
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Plan:
    """How a benchmark is run; the same for every arm.

    Attributes:
        preset: ``quick``, ``default``, ``certify`` or ``custom``.
        batch: Examples per call.
        threads: Threads of the runtime.
        blocks: Blocks to finish; the block is the sample.
        window_s: Least length of one window.
        idle_s: Length of each idle window.
        warmup_limit_s: Longest warm-up of one arm.
        seed: Of the order of the arms within the blocks.
        workload: What a call is, where tokens are counted instead of examples: an "inference" is then one token.
    """

    preset: str
    batch: int
    threads: int
    blocks: int
    window_s: float
    idle_s: float
    warmup_limit_s: float
    seed: int
    workload: Workload | None = None


@dataclass(frozen=True)
class RuntimeInfo:
    """What runs the artifact.

    Attributes:
        name: ``torch`` or ``onnxruntime`` (or another that is installed).
        version: Its version.
        device: ``cpu`` or the accelerator's name.
        options: The options it was opened with.
    """

    name: str
    version: str
    device: str
    options: Mapping[str, str]


# --- what was measured ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One arm's part of one block: its two windows (there and back, ABBA) added up.

    Attributes:
        block: Number of the block, from 0.
        inferences: Examples that went through; tokens, if the plan has a workload.
        elapsed_s: Wall-clock time of the windows.
        cpu_s: CPU time of the worker process, all threads.
        energy_j: Joules per domain, gross, keyed ``meter/domain``. A domain that could not be read is absent.
        foreign_load: Share of the cores that other processes kept busy meanwhile, 0..1.
        temperature_c: Hottest CPU sensor at the end; ``None`` where there is none.
        utilisation: Share of the time in which a GPU ran anything, 0..1, keyed ``meter/domain``, mean over the windows.
            A GPU that does not tell is absent; the meter's ``source`` says why.
    """

    block: int
    inferences: int
    elapsed_s: float
    cpu_s: float
    energy_j: Mapping[str, float]
    foreign_load: float
    temperature_c: float | None
    utilisation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A block that was discarded for a recorded cause and run again.

    Attributes:
        block: Number of the block.
        arm: The arm in whose window it happened.
        cause: What happened.
    """

    block: int
    arm: str
    cause: str


@dataclass(frozen=True)
class Latency:
    """Time of one call (one batch), over all windows of the arm.

    Attributes:
        calls: Number of calls timed.
        p50_s: Median.
        p90_s: 90th percentile.
        p99_s: 99th percentile.
        percentiles_s: The 0th to 100th percentile, 101 values, for the distribution's plot.
    """

    calls: int
    p50_s: float
    p90_s: float
    p99_s: float
    percentiles_s: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """One arm: an artifact on a runtime, run under meters, and scored.

    Attributes:
        arm: Name of the arm, e.g. ``PyTorch fp32`` or ``ONNX int8``.
        role: ``baseline`` (fp32), ``candidate`` (compressed), ``stage`` (an earlier or undone stage of the compression)
            or ``control`` (the A/A twin of a baseline).
        artifact: The file.
        runtime: What ran it.
        kernels: What the runtime really runs; ``None`` where the runtime does not say.
        plan: How it was run.
        environment: Where.
        meters: Under which meters.
        trials: The finished blocks.
        rejected: The discarded ones.
        idle_power_w: Watts per ``meter/domain`` while every worker waited; absent where not read.
        latency: Of single calls.
        peak_memory_bytes: Largest resident size of the worker.
        load_s: Time to start the worker, load the file and compute a first batch, in the first block; with
            ``torch.compile`` this is where it compiles.
        steady: Whether warm-up ended because the times settled.
        score: On the test examples; ``None`` if no task was given.
    """

    arm: str
    role: Literal["baseline", "candidate", "stage", "control"]
    artifact: Artifact
    runtime: RuntimeInfo
    kernels: KernelCounts | None
    plan: Plan
    environment: Environment
    meters: tuple[MeterInfo, ...]
    trials: tuple[Trial, ...]
    rejected: tuple[Rejected, ...]
    idle_power_w: Mapping[str, float]
    latency: Latency | None
    peak_memory_bytes: int | None
    load_s: float
    steady: bool
    score: Score | None


# --- what follows from it ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A mean with its uncertainty.

    Attributes:
        value: Geometric mean over the blocks (or the plain value where there is one only).
        unit: SI unit, e.g. ``J`` or ``s``, per example where the name says so.
        ci95: 95 % interval; ``None`` where there are too few blocks or the value is exact.
        provenance: For joules, where they come from; ``None`` for anything else.
    """

    value: float
    unit: str
    ci95: tuple[float, float] | None
    provenance: Provenance | None = None


@dataclass(frozen=True)
class Delta:
    """One metric of two arms side by side.

    Attributes:
        metric: E.g. ``energy per inference (rapl/package-0)``, ``CPU time per inference``, ``size``.
        baseline: The baseline's value.
        candidate: The candidate's value.
        ratio: Candidate over baseline, paired by block.
        ci95: 95 % interval of the ratio; ``None`` where the ratio is exact or has too few blocks.
        verdict: Whether the candidate is better. Never ``better`` or ``worse`` for estimated joules.
        reason: Why the verdict is ``not established``; empty otherwise.
    """

    metric: str
    baseline: Quantity
    candidate: Quantity
    ratio: float
    ci95: tuple[float, float] | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class ScoreDelta:
    """The score of two arms on the same examples.

    Attributes:
        metric: The metric's name.
        unit: Its unit.
        baseline: The baseline's score.
        candidate: The candidate's score.
        loss: How much worse the candidate is, in ``unit``; negative if it is better.
        ci95: 95 % interval of ``loss``; ``None`` where the metric has no value per example.
        max_loss: The user's margin, in ``unit``.
        p_value: Exact McNemar test that both are wrong equally often; ``None`` for other metrics.
        verdict: ``retained`` if the whole interval is within the margin, ``lost`` if the whole interval is beyond it.
        reason: How the verdict was reached.
    """

    metric: str
    unit: str
    baseline: float
    candidate: float
    loss: float
    ci95: tuple[float, float] | None
    max_loss: float
    p_value: float | None
    verdict: Retention
    reason: str


@dataclass(frozen=True)
class Control:
    """The A/A control: a second worker on a baseline's own file.

    Attributes:
        arm: The baseline whose twin it is.
        metric: The metric it was evaluated on.
        ratio: Twin over original; 1 is right.
        ci95: Its 95 % interval; ``None`` with too few blocks.
        detection_limit: Half-width of the interval as a fraction: smaller differences cannot be told from noise.
        passed: Whether the interval holds 1. If not, the run's verdicts are void.
    """

    arm: str
    metric: str
    ratio: float
    ci95: tuple[float, float] | None
    detection_limit: float | None
    passed: bool


@dataclass(frozen=True)
class Comparison:
    """A candidate against one baseline.

    Attributes:
        baseline: Name of the baseline's arm.
        candidate: Name of the candidate's arm.
        deltas: One per metric.
        score: The score's; ``None`` if no task was given.
    """

    baseline: str
    candidate: str
    deltas: tuple[Delta, ...]
    score: ScoreDelta | None


@dataclass(frozen=True)
class StageCost:
    """What one stage of the compression cost.

    Attributes:
        stage: Its name, e.g. ``load``, ``export``, ``int8``, ``score``.
        elapsed_s: Wall-clock time.
        cpu_s: CPU time of this process and its children.
        energy_j: Joules per ``meter/domain``, gross.
    """

    stage: str
    elapsed_s: float
    cpu_s: float
    energy_j: Mapping[str, float]


@dataclass(frozen=True)
class BreakEven:
    """After how many inferences the compression has paid for itself.

    Attributes:
        baseline: The arm it is computed against.
        metric: ``energy (meter/domain)`` or ``CPU time``.
        cost: What compressing cost, in the metric's unit.
        inferences: ``cost / (baseline - candidate)`` per inference; ``None`` if never established.
        ci95: From the interval of the difference; ``None`` if never established.
        reason: Why it is not established; empty otherwise.
    """

    baseline: str
    metric: str
    cost: Quantity
    inferences: float | None
    ci95: tuple[float, float] | None
    reason: str = ""


@dataclass(frozen=True)
class ClassMoved:
    """One class of the test examples, before and after.

    Attributes:
        name: Its name, or its number where it has none.
        examples: Test examples of it.
        right_before: How many of them the baseline gets right.
        right_after: How many the candidate gets right.
        broken: How many only the baseline gets right.
    """

    name: str
    examples: int
    right_before: int
    right_after: int
    broken: int


@dataclass(frozen=True)
class Flip:
    """A test example that the two models class differently.

    Attributes:
        index: Its number among the test examples, from 0.
        target: Its class.
        before: The baseline's answer.
        after: The candidate's answer.
        picture: A small PNG, base64, where the example is a picture; empty otherwise.
        text: The example, where it is text; empty otherwise.
    """

    index: int
    target: str
    before: str
    after: str
    picture: str = ""
    text: str = ""


@dataclass(frozen=True)
class Confusion:
    """What moved between two classifiers on the same test examples.

    Attributes:
        baseline: Name of the one arm.
        candidate: Name of the other.
        classes: One per class, in the order of the class numbers.
        broken: Examples that only the baseline gets right.
        mended: Examples that only the candidate gets right.
        moved: Examples that both get wrong, differently.
        flips: Some of those that changed, the broken ones first; at most as many as are worth looking at.
        counted: What is counted: test examples, or the words in them.
    """

    baseline: str
    candidate: str
    classes: tuple[ClassMoved, ...]
    broken: int
    mended: int
    moved: int
    flips: tuple[Flip, ...]
    counted: Literal["test examples", "words"] = "test examples"


@dataclass(frozen=True)
class Usage:
    """Where and how often the model will run, as far as the user said; carbon and life cycle follow from it.

    Attributes:
        country: Country code of the shipped data set whose yearly intensity counts; ``None`` for none.
        intensity_g_per_kwh: Carbon intensity of the electricity, g CO2e/kWh, given instead of a country.
        pue: Power usage effectiveness: the building's energy over the computer's, 1 or more.
        inferences: Inferences over the model's lifetime.
        training_kwh: Energy that training took, as stated by the user.
        embodied_g: g CO2e of making the hardware, the share allotted to this model over its ``inferences``.
        alpha: Weight of the error in the energy-precision ratio.
        data_efficiency: Fraction of the training data (0..1) and the score reached with it, where the user gave any.
    """

    country: str | None = None
    intensity_g_per_kwh: float | None = None
    pue: float = 1.0
    inferences: int | None = None
    training_kwh: float | None = None
    embodied_g: float | None = None
    alpha: float = 1.0
    data_efficiency: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that one run found; what ``report.json`` holds.

    Attributes:
        schema: Version of this record.
        tool: Name and version of the program that wrote it.
        created_utc: ISO 8601 time of writing.
        headline: The verdict in one sentence, with its numbers, interval and provenance.
        warnings: What the reader has to know before believing a number, loudest first.
        model: The user's model.
        task: Data and score.
        methods: What was asked for, in order.
        parity: Arm name to how far its outputs are from the original's.
        measurements: One per arm.
        control: The A/A controls, one per metric judged.
        comparisons: The candidate against each baseline, fastest fp32 baseline first.
        stages: What compressing cost.
        break_even: When that is paid back.
        settings: Every option of the run, defaults included; enough to repeat it.
        command: The command line that repeats it; empty for the Python API.
        notes: What was done to the data and the model on the way in, one sentence each.
        confusion: What moved between the classes; ``None`` for other tasks.
        usage: Where and how often the model will run; ``None`` where nobody said.
    """

    schema: int
    tool: str
    created_utc: str
    headline: str
    warnings: tuple[str, ...]
    model: ModelSummary
    task: TaskSummary
    methods: tuple[str, ...]
    parity: Mapping[str, Parity]
    measurements: tuple[Measurement, ...]
    control: tuple[Control, ...]
    comparisons: tuple[Comparison, ...]
    stages: tuple[StageCost, ...]
    break_even: tuple[BreakEven, ...]
    settings: Mapping[str, str | int | float | bool | None]
    command: str
    notes: tuple[str, ...] = ()
    confusion: Confusion | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class BenchRun:
    """Some files measured side by side at one batch size and one number of threads.

    Attributes:
        measurements: One per file in the order given, the A/A twin of the first behind them.
        control: The A/A controls, one per metric.
        comparisons: Every other file against the first.
        warnings: What the reader has to know before believing a number.
    """

    measurements: tuple[Measurement, ...]
    control: tuple[Control, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class BenchRecord:
    """What ``compress bench`` found and ``--out`` keeps.

    Attributes:
        schema: Version of this record.
        tool: Name and version of the program that wrote it.
        created_utc: ISO 8601 time of writing.
        task: The data that every file ran on; the arms have scores unless it is synthetic.
        runs: One per batch size and number of threads.
        interrupted: Whether Ctrl-C ended it early.
        settings: Every option of the run, defaults included.
        command: The command line that repeats it; empty for the Python API.
        notes: What was done to the data on the way in, one sentence each.
    """

    schema: int
    tool: str
    created_utc: str
    task: TaskSummary
    runs: tuple[BenchRun, ...]
    interrupted: bool
    settings: Mapping[str, str | int | float | bool | None]
    command: str
    notes: tuple[str, ...] = ()
