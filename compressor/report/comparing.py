"""The candidate against each baseline: ratios with interval, detection limit and verdict; score; A/A control."""

from __future__ import annotations

from compressor.compare import WALL_TIME
from compressor.report import aggregates, numbers
from compressor.report.model import Cell, Column, Section, Table, Tone
from compressor.report.text import clean, named
from compressor.results import Comparison, Control, Delta, Quantity, Report, ScoreDelta

TONES: dict[str, Tone] = {
    "better": "good",
    "retained": "good",
    "worse": "bad",
    "lost": "bad",
    "not established": "open",
}
NO_LIMIT = "none"
_ACRONYMS = {"mse": "MSE", "mae": "MAE", "rmse": "RMSE", "auc": "AUC", "r2": "R²", "f1": "F1"}


def metric_label(delta: Delta) -> str:
    """The metric's name; joules say where they come from."""
    words = sorted(aggregates.sources(delta))
    name = clean(delta.metric)
    return f"{name[:1].upper()}{name[1:]}{', ' + ' / '.join(words) if words else ''}"


def verdict(report: Report, delta: Delta) -> Cell:
    """The verdict in words, withheld where the record must not give one."""
    sources = aggregates.sources(delta)
    if len(sources) > 1:
        return Cell("not comparable", "void", "measured and estimated joules are never compared")
    if "estimated" in sources:
        return Cell("estimated, no verdict", "estimated")
    if aggregates.is_exact(delta) and delta.ratio == 1:
        return Cell("no change", "open")
    if aggregates.void(report, delta.metric):
        return Cell("void", "void", "the A/A control failed")
    return Cell(delta.verdict, TONES[delta.verdict], clean(delta.reason))


def change(delta: Delta) -> str:
    """What the ratio says in words, with its interval: wall time is a speed, all else a cost."""
    if len(aggregates.sources(delta)) > 1:
        return numbers.NOT_AVAILABLE
    if delta.metric == WALL_TIME:
        return numbers.speed(delta.ratio, delta.ci95)
    return numbers.change(delta.ratio, delta.ci95)


def detection_limit(report: Report, delta: Delta, baseline: str) -> str:
    """The smallest difference that the A/A control of this metric could tell from noise."""
    if aggregates.is_exact(delta):
        return "exact"
    control = aggregates.control_for(report, delta.metric, baseline)
    if control is None or control.detection_limit is None:
        return NO_LIMIT
    if not control.passed and control.ci95 is not None:
        return "void"
    return f"±{numbers.percent(control.detection_limit)}"


def _value(quantity: Quantity) -> Cell:
    text, interval = numbers.apart(numbers.with_interval(quantity.value, quantity.unit, quantity.ci95))
    return Cell(text, "estimated" if quantity.provenance == "estimated" else "plain", interval)


def lost(score: ScoreDelta) -> str:
    """The score's loss with its interval."""
    return numbers.loss(score.loss, score.unit, score.ci95)


def score_name(report: Report) -> str:
    """What the score is, within a sentence; agreement on synthetic inputs is never called accuracy."""
    if report.task.synthetic:
        return "agreement with the original, synthetic inputs"
    name = clean(report.task.metric, 60) or "score"
    return _ACRONYMS.get(name, name)


def score_label(report: Report) -> str:
    """What the score is, as a heading."""
    name = score_name(report)
    return f"{name[:1].upper()}{name[1:]}"


def score_verdict(score: ScoreDelta) -> Cell:
    """Whether the score was kept within the margin."""
    return Cell(score.verdict, TONES[score.verdict], clean(score.reason))


def _score_row(report: Report, score: ScoreDelta) -> tuple[Cell, ...]:
    test = "" if score.p_value is None or "McNemar" in score.reason else f"exact McNemar p = {p_value(score.p_value)}"
    return (
        Cell(score_label(report), note=test),
        Cell(numbers.quantity(score.baseline, score.unit)),
        Cell(numbers.quantity(score.candidate, score.unit)),
        Cell(lost(score)),
        Cell(f"margin {numbers.margin(score.max_loss, score.unit)}"),
        score_verdict(score),
    )


def p_value(p: float) -> str:
    """A p-value to two digits, never below 0.001."""
    return "below 0.001" if p < 0.001 else f"{p:.2g}"


def title(report: Report, comparison: Comparison) -> str:
    """Which two arms, and what the difference between them is due to."""
    names = f"{named(comparison.candidate)} against {named(comparison.baseline)}"
    candidate = aggregates.arm(report, comparison.candidate)
    if candidate is not None and candidate.role == "baseline":
        return f"Runtime alone: {names}"
    if aggregates.compares_compression(report, comparison):
        return f"Compression alone: {names}"
    return f"Runtime and compression together: {names}"


def runtime_sentence(report: Report) -> str:
    """What the runtime alone is worth, before anything is compressed; empty with one runtime only."""
    gain = aggregates.runtime_gain(report)
    if gain is None:
        return ""
    slow, fast, ratio = gain
    name = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch"}.get(fast.runtime.name, clean(fast.runtime.name, 40))
    metric = aggregates.time_name(report)
    void = " (void: the A/A control failed)" if aggregates.void(report, metric) else ""
    return (
        f"{name} alone, before any compression, in {metric}: "
        f"{numbers.change(ratio.value, ratio.ci95)} ({named(fast.arm)} against {named(slow.arm)}){void}."
    )


def comparison_section(report: Report, number: int, comparison: Comparison) -> Section:
    """One candidate against one baseline."""
    columns = (
        Column("metric", "Metric"),
        Column("baseline", named(comparison.baseline), "before", numeric=True),
        Column("candidate", named(comparison.candidate), "after", numeric=True),
        Column("change", "Change", "95 % interval", numeric=True),
        Column("limit", "Detection limit", "from the A/A control", numeric=True),
        Column("verdict", "Verdict"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            Cell(metric_label(delta), "estimated" if "estimated" in aggregates.sources(delta) else "plain"),
            _value(delta.baseline),
            _value(delta.candidate),
            Cell(change(delta), note=f"ratio {numbers.ratio(delta.ratio, delta.ci95)}"),
            Cell(detection_limit(report, delta, comparison.baseline)),
            verdict(report, delta),
        )
        for delta in comparison.deltas
        if not aggregates.repeats_total(report, delta.metric)
    ]
    if comparison.score is not None:
        rows.append(_score_row(report, comparison.score))
    text = () if rows else ("Nothing could be compared: an arm has no finished block.",)
    heading = title(report, comparison)
    return Section(
        f"comparison-{number}", heading, text, tables=(Table(heading, columns, tuple(rows)),) if rows else ()
    )


def control_section(report: Report) -> Section:
    """The A/A control: what the same file measured twice makes of itself."""
    if not report.control:
        return Section(
            "control", "A/A control", ("No A/A control was run: there is no detection limit for these numbers.",)
        )
    text = "A second worker ran a baseline's own file. Its ratio must hold 1; half its interval is the detection limit."
    failed = [clean(c.metric) for c in aggregates.failed_controls(report)]
    if failed:
        said = "the same file, measured twice, differed, so verdicts on it are void"
        text = f"FAILED on {', '.join(failed)}: {said}. {text}"
    columns = (
        Column("metric", "Metric"),
        Column("arm", "Arm"),
        Column("ratio", "Twin / original", "95 % interval", numeric=True),
        Column("limit", "Detection limit", numeric=True),
        Column("result", "Result"),
    )
    shown = [c for c in report.control if not aggregates.repeats_total(report, c.metric)]
    return Section(
        "control",
        "A/A control",
        (text,),
        tables=(Table("A/A control by metric", columns, tuple(map(_control_row, shown))),),
    )


def _control_row(control: Control) -> tuple[Cell, ...]:
    limit = control.detection_limit
    return (
        Cell(clean(control.metric)),
        Cell(named(control.arm)),
        Cell(numbers.ratio(control.ratio, control.ci95)),
        Cell(NO_LIMIT if limit is None or not control.passed else f"±{numbers.percent(limit)}"),
        Cell("passed", "good")
        if control.passed
        else Cell("too few blocks", "open")
        if control.ci95 is None
        else Cell("FAILED: verdicts void", "void"),
    )
