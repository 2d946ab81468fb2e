"""The first screen: provenance, verdicts and the few figures that matter, next to the headline."""

from __future__ import annotations

from compressor.report import aggregates, comparing, numbers, use
from compressor.report.model import Cell, Chip, KeyFigure, Tone
from compressor.report.text import clean, named
from compressor.results import Comparison, Delta, Report, ScoreDelta


def _main(report: Report) -> Comparison | None:
    """The comparison that the headline rests on: the first."""
    return report.comparisons[0] if report.comparisons else None


def _energy_chip(report: Report) -> Chip:
    meter, comparison = aggregates.primary_meter(report), _main(report)
    if meter is None:
        return Chip("Energy", "not read", "open")
    unlike = "" if comparison is None else aggregates.unlike_energy(report, comparison)
    if unlike:
        return Chip("Energy", f"{clean(unlike, 90)}: not comparable", "void")
    name = clean(meter.name, 40)
    if meter.provenance == "estimated":
        return Chip("Energy", f"estimated, not measured ({name})", "estimated")
    if meter.provenance == "replayed":
        return Chip("Energy", f"replayed from a recording ({name})", "open")
    return Chip("Energy", f"measured ({name}, {meter.scope})", "measured")


def _costs(report: Report, comparison: Comparison) -> tuple[Delta | None, Delta | None, bool]:
    """What a comparison says of energy and of time, and whether it is the energy that decides."""
    found = aggregates.energy_delta(report, comparison)
    time = next((d for d in comparison.deltas if d.metric == aggregates.time_name(report)), None)
    return found and found[0], time, found is not None and found[1].provenance != "estimated"


def _verdict_chip(report: Report) -> Chip | None:
    """The verdict on energy where it was measured, on CPU time where it was not."""
    comparison = _main(report)
    if comparison is None:
        return None
    names = {comparison.baseline, comparison.candidate}
    empty = [named(m.arm) for m in report.measurements if m.arm in names and not m.trials]
    if empty:
        return Chip("Nothing measured", f"{' and '.join(empty)}: no finished block", "void")
    energy, time, measured = _costs(report, comparison)
    delta = energy if measured else time
    if delta is None:
        return Chip("Saving", "not established", "open")
    label = "Energy per inference" if measured else f"{delta.metric[:1].upper()}{delta.metric[1:]}"
    cell = comparing.verdict(report, delta)
    words = {"better": "less, established", "worse": "MORE, established", "not established": "saving not established"}
    return Chip(label, words.get(cell.text, cell.text), cell.tone)


def _score_chip(report: Report) -> Chip:
    comparison = _main(report)
    score = comparison.score if comparison is not None else None
    if score is None:
        return Chip("Score", "none: no task was given", "open")
    cell = comparing.score_verdict(score)
    how = {"retained": "within", "lost": "more than", "not established": "to be within"}[score.verdict]
    how = f"worse by {how}" if cell.text == "lost" and score.unit != "fraction" else f"{cell.text} {how}"
    return Chip(comparing.score_label(report), f"{how} {numbers.margin(score.max_loss, score.unit)}", cell.tone)


def _control_chip(report: Report) -> Chip:
    if not report.control:
        return Chip("A/A control", "not run", "open")
    failed = [c.metric for c in aggregates.failed_controls(report)]
    if failed and len(failed) == len(report.control):
        return Chip("A/A control", "FAILED, verdicts void", "void")
    if failed:
        shown = clean(", ".join(metric.replace(" per inference", "") for metric in failed), 120)
        return Chip("A/A control", f"FAILED on {shown}: no verdict on it", "void")
    if aggregates.unfinished_controls(report):
        return Chip("A/A control", "not established: too few blocks", "open")
    return Chip("A/A control", "passed", "good")


def _label_chip(report: Report) -> Chip | None:
    """The energy label, where energy was measured and the control allows one."""
    letter, _ = use.label(report)
    if not letter:
        return None
    return Chip("Energy label", letter, "good" if letter < "F" else "open" if letter == "F" else "bad")


def chips(report: Report) -> tuple[Chip, ...]:
    """Provenance, label, verdict, score and control."""
    found = (
        _energy_chip(report),
        _label_chip(report),
        _verdict_chip(report),
        _score_chip(report),
        _control_chip(report),
    )
    return tuple(chip for chip in found if chip is not None)


def tone(report: Report) -> Tone:
    """How the headline is set: as the verdict on energy, else on CPU time; a lost score is bad whatever was saved."""
    comparison, chip = _main(report), _verdict_chip(report)
    if comparison is None or chip is None:
        return "open"
    lost = comparison.score is not None and comparison.score.verdict == "lost"
    return "bad" if lost and chip.tone != "void" else chip.tone


def against(report: Report) -> str:
    """Which arms the key figures compare."""
    comparison = _main(report)
    return "" if comparison is None else comparing.title(report, comparison)


def key_figures(report: Report) -> tuple[KeyFigure, ...]:
    """Energy, CPU time, score and size of the comparison that the headline rests on."""
    comparison = _main(report)
    if comparison is None:
        return ()
    energy, time, measured = _costs(report, comparison)
    # What was measured stands before what was estimated.
    costs = [energy, time] if measured else [time, energy]
    figures = [_delta_figure(report, comparison, delta) for delta in costs if delta is not None]
    if comparison.score is not None:
        figures.append(_score_figure(report, comparison.score))
    sizes = [delta for delta in comparison.deltas if aggregates.is_exact(delta)]
    return (*figures, *(_delta_figure(report, comparison, delta) for delta in sizes))


def _score_figure(report: Report, score: ScoreDelta) -> KeyFigure:
    value, interval = numbers.apart(comparing.lost(score))
    before, after = (numbers.quantity(x, score.unit) for x in (score.baseline, score.candidate))
    cell = comparing.score_verdict(score)
    return KeyFigure(
        comparing.score_label(report),
        value,
        interval or "no interval",
        f"margin {numbers.margin(score.max_loss, score.unit)}",
        f"{before} → {after}",
        cell.text,
        cell.tone,
    )


def _delta_figure(report: Report, comparison: Comparison, delta: Delta) -> KeyFigure:
    value, interval = numbers.apart(comparing.change(delta))
    limit = comparing.detection_limit(report, delta, comparison.baseline)
    cell: Cell = comparing.verdict(report, delta)
    before, after = (numbers.quantity(q.value, q.unit, q.ci95) for q in (delta.baseline, delta.candidate))
    exact = limit == "exact"
    return KeyFigure(
        comparing.metric_label(delta),
        value,
        "exact" if exact else interval or "no interval: too few blocks",
        "" if exact else f"detection limit {limit}",
        f"{before} → {after}",
        cell.text,
        cell.tone,
    )
