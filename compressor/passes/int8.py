"""int8 for ONNX Runtime's CPU provider: as fits the architecture, and only where it pays on this CPU.

The wrong kind is slower than fp32, and so is the right kind on some layers. :mod:`~compressor.passes.int8_plan` chooses
by the architecture; then :mod:`~compressor.passes.payoff` times it and leaves the rest in fp32.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from compressor.errors import MethodError, nearest
from compressor.model.base import Arrays
from compressor.onnx_file import copy_onnx, load_outline, save_draft, save_onnx, weight_bytes
from compressor.passes.base import Context
from compressor.passes.bias_correction import convolution_inputs, correct_biases, has_depthwise
from compressor.passes.calibration import Calibration, activation_ranges, channel_means, check_examples
from compressor.passes.embeddings import shrink
from compressor.passes.int8_plan import SCHEMES, Mode, Plan, Types, choose, generates, timed_groups
from compressor.passes.int8_rewrites import fit_for_int8
from compressor.passes.payoff import GAIN, Payoff, find_paying, is_faster, layer_errors, output_error
from compressor.passes.qdq import clean, explained, mix, quiet, write_dynamic, write_static
from compressor.passes.rewrites import SOURCE, prepare, split_gemms, untie_axes
from compressor.passes.weight_only import Int8WeightOnly
from compressor.results import SensitivityRow, Step
from compressor.rules import Rule, Ruled
from compressor.task.base import Examples

if TYPE_CHECKING:
    import onnx

_WEIGHTS_ALONE = "A causal language model: its weights alone become int8; int8-dynamic rounds its activations too."

SENSITIVITY_EXAMPLES = 16
"""Examples that each layer's error is taken over."""

FIXED_ERROR = 0.05
"""A perceptron gets fixed ranges only if they move its output by no more than this, relative to its norm: about what
they do to convolutions."""

TIMED_BYTES = 512 * 2**20
"""Models with more weights than this are not timed: pairs of them would have to be loaded again and again."""


@dataclass(frozen=True)
class Int8(Ruled):
    """8-bit weights and activations, chosen per part of the graph; what does not pay stays fp32.

    Attributes:
        by_rule: Whether to choose by the architecture alone, for a target that is not this machine.
        max_error: Layers stay fp32 that, alone in int8, move the output by more than this, relative to its norm.
        rules: Which layers may become int8, as :mod:`compressor.rules` has it; ``static`` and ``dynamic`` instead of
            ``include`` say how.
    """

    name: ClassVar[str] = "int8"
    schemes: ClassVar[tuple[str, ...]] = SCHEMES
    by_rule: bool = False
    max_error: float | None = None
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_error(self.name, self.max_error)

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the quantized model; see :class:`~compressor.passes.base.GraphPass`.

        If int8 pays nowhere, the model is copied and the step says so: its setting ``kept_fp32`` is true. Of a causal
        language model the weights alone become int8, block by block, unless a rule or ``max_error`` asks for more: the
        outliers of its activations leave 8 bits for them all too coarse.

        Raises:
            MethodError: The model is quantized already or has nothing to quantize, the calibration data cannot serve,
                or ONNX Runtime's quantizer gave up.
        """
        with explained("ONNX Runtime's quantizer", source):
            causal = generates(load_outline(source).graph)
        if causal and self.max_error is None and not any(rule.scheme for rule in self.parsed):
            step = Int8WeightOnly(rules=self.rules).apply(source, target, context)
            return replace(step, method=self.name, notes=(_WEIGHTS_ALONE, *step.notes))
        job = _Job(self.name, "auto", max_error=self.max_error, timed=not self.by_rule, rules=self.parsed)
        return job.run(source, target, context)


@dataclass(frozen=True)
class Int8Static(Ruled):
    """8-bit weights and activations with ranges from calibration, on every layer that has such a kernel.

    Attributes:
        calibration: How an activation's range is found: ``minmax``, ``percentile`` or ``entropy``.
        percentile: For ``percentile``: how much of the values the range holds, in percent.
        per_channel: Whether every output channel's weights have a scale of their own.
        max_error: Layers stay fp32 that, alone in int8, move the output by more than this, relative to its norm.
        rules: Which layers become int8, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str] = "int8-static"
    calibration: Calibration = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    max_error: float | None = None
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        known = get_args(Calibration)
        if self.calibration not in known:
            raise MethodError(
                f"has no calibration '{self.calibration}'", where=self.name, mend=nearest(self.calibration, known)
            )
        if not 50 < self.percentile <= 100:
            raise MethodError(
                f"percentile must be above 50 and at most 100, not {self.percentile:g}",
                where=self.name,
                mend=f"the nearest that goes is {'100' if self.percentile > 100 else '50.01'}",
            )
        _check_error(self.name, self.max_error)

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the quantized model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: As of :class:`Int8`.
        """
        job = _Job(
            self.name, "static", self.calibration, self.percentile, self.per_channel, self.max_error, rules=self.parsed
        )
        return job.run(source, target, context)


@dataclass(frozen=True)
class Int8Dynamic(Ruled):
    """8-bit weights, and activations whose range is found in every call, on every matrix product and LSTM.

    Attributes:
        rules: Which layers become int8, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str] = "int8-dynamic"
    rules: tuple[str, ...] = ()

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the quantized model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: As of :class:`Int8`, calibration aside.
        """
        return _Job(self.name, "dynamic", rules=self.parsed).run(source, target, context)


def _check_error(method: str, limit: float | None) -> None:
    if limit is not None and not (limit > 0 and math.isfinite(limit)):
        raise MethodError(f"max_error must be above 0, not {limit:g}", where=method, mend="0.01 is 1 % of the output")


@dataclass(frozen=True)
class _Job:
    """What the three methods share."""

    method: str
    mode: Mode
    calibration: Calibration = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    max_error: float | None = None
    timed: bool = False
    rules: tuple[Rule, ...] = ()

    def run(self, source: Path, target: Path, context: Context) -> Step:
        types = Types.of(context.cpu_features)
        working = tempfile.TemporaryDirectory(prefix=".int8.", dir=target.parent)
        with working as name, quiet(), explained("ONNX Runtime's quantizer", source):
            folder = Path(name)
            job, variants = self, self._quantize(source, folder, types, context)
            mapped = folder / SOURCE if (folder / SOURCE).exists() else source
            decided = self._decide(mapped, variants, context)
            if variants.plan.perceptron and self.max_error is None and decided.payoff:
                now = variants.file(decided.kept)
                better = self._fixed(source, mapped, now, folder / "fixed", types, context)
                job, variants, decided = better or (job, variants, decided)
            proto = variants.proto(decided.kept)
            if decided.kept:
                if variants.plan.tables:
                    note = shrink(proto.graph, variants.plan.tables)
                    decided = replace(decided, notes=(note, *decided.notes))
                clean(proto)
                save_onnx(proto, target)
            else:
                copy_onnx(source, target)
        return job._step(variants.plan, decided, types)

    def _quantize(self, source: Path, folder: Path, types: Types, context: Context) -> _Variants:
        import onnx

        plain = prepare(source, folder)
        small = weight_bytes(plain) <= TIMED_BYTES
        if self.mode != "dynamic":
            fit_for_int8(plain.graph)
        plan = choose(plain, self.mode, self.method, self.rules)
        if plan.dynamic:
            split_gemms(plain, set(plan.dynamic) - plan.excluded)
        quantized = plain
        if plan.static:
            examples = context.task.calibration()
            check_examples(examples, plain)
            untie_axes(plain.graph, set(plan.static))
            ranges = activation_ranges(
                plain, plan.static, examples, folder, context.threads,
                method=self.calibration, percentile=self.percentile,
            )  # fmt: skip
            quantized = write_static(plain, plan.static, ranges, types, folder, per_channel=self.per_channel)
            if has_depthwise(plain, layers := set(plan.layers) - set(plan.dynamic)):
                sizes = convolution_inputs(plain, layers)
                means = channel_means(plain, sizes, examples, folder, context.threads)
                corrected = correct_biases(plain, quantized, layers, means)
                note = f"Depthwise convolutions lose most to rounding: the biases of {corrected} layers are corrected."
                plan = replace(plan, notes=(*plan.notes, note))
        if plan.dynamic:
            if quantized is plain:
                quantized = onnx.ModelProto()
                quantized.CopyFrom(plain)
            quantized = write_dynamic(quantized, set(plan.dynamic), types, folder)
        return _Variants(plain, quantized, plan, folder, small)

    def _fixed(
        self, source: Path, mapped: Path, now: Path, folder: Path, types: Types, context: Context
    ) -> tuple[_Job, _Variants, _Decision] | None:
        """A perceptron with fixed ranges, if that is faster than the dynamic form ``now``, and exact enough."""
        # With one scale per weight: ONNX Runtime's QGemm takes half as long again over a scale per output (1.31).
        job = replace(self, mode="static", per_channel=False)
        folder.mkdir()
        variants = job._quantize(source, folder, types, context)
        decided = job._decide(mapped, variants, context)
        if not decided.kept:
            return None
        inputs, batch = context.task.calibration().inputs, _batch(variants.plain, context.batch)
        made = variants.file(decided.kept)
        faster = is_faster(now, made, tuple(x[:batch] for x in inputs), context.run_threads)
        if not faster or output_error(mapped, made, _some(inputs, batch), context.threads, batch) > FIXED_ERROR:
            return None
        note = "Fixed ranges, as they are faster here than ranges found in every call, and exact enough."
        return job, variants, replace(decided, notes=(note,))

    def _decide(self, source: Path, variants: _Variants, context: Context) -> _Decision:
        """Leave out what harms too much, then what does not pay."""
        plan = variants.plan
        kept, errors, payoff, notes = frozenset(plan.layers) - plan.excluded, {}, None, []
        examples = context.task.calibration() if self.max_error is not None or self.timed else None
        batch = _batch(variants.plain, context.batch)
        if examples is not None and not _serves(examples, batch, variants.plain):
            count = len(examples) if examples.inputs else 0
            few = f"only {count} calibration examples for a batch of {batch}" if count else "no calibration examples"
            if self.max_error is not None:
                raise MethodError(
                    f"there are {few} to measure max_error on",
                    where=self.method,
                    mend="give data, with some left for calibration",
                )
            notes.append(f"Chosen by rule: there are {few} to time it on.")
            examples = None
        if examples is not None and self.max_error is not None:
            inputs = _some(examples.inputs, batch)
            errors = layer_errors(
                source, [x for x in plan.layers if x in kept], variants.file, inputs, context.threads, batch
            )
            kept = frozenset(layer for layer in kept if errors[layer] <= self.max_error)
            if not kept:
                least = min(errors, key=lambda layer: errors[layer])
                raise MethodError(
                    f"every layer alone moves the output by more than max_error {self.max_error:g}",
                    where=self.method,
                    mend=f"the least is {errors[least]:.2g}, of {least}",
                )
        if examples is not None and self.timed:
            if not variants.small:
                notes.append(f"Chosen by rule: more than {TIMED_BYTES // 2**20} MiB of weights are not timed.")
            else:
                feed = tuple(x[:batch] for x in examples.inputs)
                groups = [
                    g for g in (tuple(x for x in g if x in kept) for g in timed_groups(variants.plain, plan)) if g
                ]
                payoff = find_paying(source, groups, variants.file, feed, context.run_threads)
                kept = payoff.kept
        return _Decision(kept, errors, payoff, tuple(notes))

    def _step(self, plan: Plan, decided: _Decision, types: Types) -> Step:
        left = [layer for layer in plan.layers if layer not in decided.kept]
        settings: dict[str, str | int | float | bool | None] = {
            "mode": self.mode,
            "activations": types.activation,
            "weights": f"int8 per {'channel' if self.per_channel or not plan.static else 'tensor'}",
            "reduce_range": types.reduce_range,
            "calibration": self._calibrated() if plan.static else "none",
            "max_error": self.max_error,
            "rules": "; ".join(map(str, self.rules)) or None,
            "measured": decided.payoff is not None,
            "kept_fp32": not decided.kept,
            "fp32_layers": ",".join(left) if left and decided.kept else None,
        }
        return Step(self.method, settings, self._notes(plan, decided, types, left), decided.rows(plan))

    def _calibrated(self) -> str:
        return {
            "minmax": "minimum and maximum",
            "percentile": f"percentile {self.percentile:g}",
            "entropy": "entropy",
        }[self.calibration]

    def _notes(self, plan: Plan, decided: _Decision, types: Types, left: list[str]) -> tuple[str, ...]:
        payoff = decided.payoff
        if payoff is not None and not decided.kept:
            return (
                "int8 does not pay anywhere on this CPU: kept fp32.",
                f"The whole model in int8 took {payoff.speed:.2f} times as long as in fp32; "
                f"it must save {GAIN:.0%} of the time.",
            )
        notes = [*plan.notes]
        harmful = [layer for layer, error in decided.errors.items() if error > (self.max_error or math.inf)]
        if harmful:
            notes.append(f"Left in fp32, for moving the output by more than {self.max_error:g}: {_names(harmful)}.")
        if plan.excluded:
            notes.append(f"Left in fp32 by the rules: {_names([x for x in plan.layers if x in plan.excluded])}.")
        if payoff is not None:
            notes.append(f"Timed on this CPU: {payoff.speed:.2f} times fp32's time.")
            slow = [layer for layer in left if layer not in harmful and layer not in plan.excluded]
            if slow:
                notes.append(f"Left in fp32, for not being faster in int8 here: {_names(slow)}.")
        return (*notes, *decided.notes, *types.notes)


@dataclass(frozen=True)
class _Decision:
    kept: frozenset[str]
    errors: dict[str, float]
    payoff: Payoff | None
    notes: tuple[str, ...]

    def rows(self, plan: Plan) -> tuple[SensitivityRow, ...]:
        """One row per layer, if anything was measured."""
        if not self.errors and self.payoff is None:
            return ()
        ratios = {layer: ratio for group, ratio in (self.payoff.groups if self.payoff else ()) for layer in group}
        return tuple(
            SensitivityRow(layer, op, self.errors.get(layer), ratios.get(layer), layer in self.kept)
            for layer, op in plan.layers.items()
        )


@dataclass(frozen=True)
class _Variants:
    """A model with any of its layers in int8."""

    plain: onnx.ModelProto
    quantized: onnx.ModelProto
    plan: Plan
    folder: Path
    small: bool

    def proto(self, kept: frozenset[str]) -> onnx.ModelProto:
        return (
            self.quantized if kept == frozenset(self.plan.layers) else mix(self.plain, self.quantized, self.plan, kept)
        )

    def file(self, kept: frozenset[str]) -> Path:
        order = list(self.plan.layers)
        bits = sum(1 << index for index, layer in enumerate(order) if layer in kept)
        path = self.folder / f"variant-{bits:x}.onnx"
        if not path.exists():
            save_draft(self.proto(kept), path)
        return path


def _batch(proto: onnx.ModelProto, batch: int) -> int:
    """The batch to run: the model's own if that is fixed."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim if proto.graph.input else ()
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else batch


def _some(inputs: Arrays, batch: int) -> Arrays:
    """As many examples as errors are taken over, in whole batches."""
    return tuple(x[: max(SENSITIVITY_EXAMPLES // batch, 1) * batch] for x in inputs)


def _serves(examples: Examples, batch: int, proto: onnx.ModelProto) -> bool:
    """Whether there is a batch of examples; ones that do not fit or are broken are told so."""
    if not examples.inputs or len(examples) < batch:
        return False
    check_examples(examples, proto)
    return True


def _names(layers: list[str], most: int = 8) -> str:
    shown = ", ".join(layers[:most])
    return shown if len(layers) <= most else f"{shown} and {len(layers) - most} more"
