"""What follows from where and how often the model runs: carbon, SCI, energy-precision ratio, label."""

from __future__ import annotations

from dataclasses import dataclass

from compressor import footprint
from compressor.carbon import SOURCE, grid
from compressor.report import aggregates
from compressor.results import Delta, Measurement, MeterInfo, Quantity, Report, Usage
from compressor.stats import difference_interval, geometric_mean

CARBON = "g CO₂e"


@dataclass(frozen=True)
class Intensity:
    """The electricity's carbon intensity.

    Attributes:
        g_per_kwh: g CO2e/kWh.
        place: The country; empty where the figure was given without one.
        source: Who says so.
        year: Of the figure; ``None`` where it was given by the user.
    """

    g_per_kwh: float
    place: str
    source: str
    year: int | None


def usage(report: Report) -> Usage:
    """What the record says of use; the defaults where it says nothing."""
    return report.usage or Usage()


def intensity(report: Report) -> Intensity | None:
    """The intensity to reckon with; ``None`` where neither it nor a country was given: there is no default."""
    said = usage(report)
    if said.intensity_g_per_kwh is not None:
        place = grid(said.country).name if said.country is not None else ""
        return Intensity(said.intensity_g_per_kwh, place, "given by the user", None)
    if said.country is None:
        return None
    found = grid(said.country)
    return Intensity(found.g_per_kwh, found.name, SOURCE, found.year)


def pair(report: Report) -> tuple[Measurement, Measurement] | None:
    """The baseline and the candidate that the headline is about."""
    if not report.comparisons:
        return None
    comparison = report.comparisons[0]
    baseline, candidate = (aggregates.arm(report, name) for name in (comparison.baseline, comparison.candidate))
    return None if baseline is None or candidate is None else (baseline, candidate)


def energy_of(report: Report, measurement: Measurement) -> Quantity | None:
    """Joules per inference of an arm by the meter shown first; ``None`` where they were not read whole."""
    meter = aggregates.primary_meter(report)
    own = meter and aggregates.meter_of(measurement, meter.name)
    return None if own is None else aggregates.energy(report, measurement, own).quantity


def scaled(quantity: Quantity, factor: float, unit: str) -> Quantity:
    """A quantity times an exact number."""
    ends = None if quantity.ci95 is None else (quantity.ci95[0] * factor, quantity.ci95[1] * factor)
    return Quantity(quantity.value * factor, unit, ends, quantity.provenance)


def carbon(report: Report, joules: Quantity) -> Quantity | None:
    """Operational carbon of some joules; ``None`` without an intensity."""
    found = intensity(report)
    if found is None:
        return None
    return scaled(joules, footprint.operational_carbon_g(1.0, found.g_per_kwh, usage(report).pue), CARBON)


def embodied_g(report: Report) -> float:
    """M of one inference: the hardware's share over the stated number of uses; 0 if none was given."""
    said = usage(report)
    if said.embodied_g is None or not said.inferences:
        return 0.0
    return said.embodied_g / said.inferences


def sci(report: Report, measurement: Measurement) -> Quantity | None:
    """SCI per inference of an arm; ``None`` without joules or an intensity."""
    joules, found = energy_of(report, measurement), intensity(report)
    if joules is None or found is None:
        return None
    pue, embodied = usage(report).pue, embodied_g(report)

    def of(energy_j: float) -> float:
        return footprint.software_carbon_intensity(energy_j, found.g_per_kwh, embodied, pue)

    ends = None if joules.ci95 is None else (of(joules.ci95[0]), of(joules.ci95[1]))
    return Quantity(of(joules.value), CARBON, ends, joules.provenance)


def energy_precision(report: Report, measurement: Measurement) -> Quantity | None:
    """Energy-precision ratio of an arm, with the interval of its energy; ``None`` unless the score is a share right."""
    joules, score = energy_of(report, measurement), measurement.score
    if joules is None or score is None or score.unit != "fraction" or not score.higher_is_better:
        return None
    if report.task.synthetic or not 0 <= score.value <= 1:
        return None
    return scaled(joules, footprint.energy_precision(1 - score.value, 1.0, usage(report).alpha), "J")


def delay_product(report: Report, measurement: Measurement) -> Quantity | None:
    """Energy times wall time of an inference, by block; ``None`` where a block's joules were not read."""
    meter = aggregates.primary_meter(report)
    own = meter and aggregates.meter_of(measurement, meter.name)
    if own is None or not measurement.trials:
        return None
    joules = aggregates.joules_of(own)
    values = [_product(joules(t), t.elapsed_s, t.inferences) for t in measurement.trials]
    sound = [v for v in values if v is not None and v > 0]
    if len(sound) < len(values):
        return None
    value, interval = geometric_mean(sound)
    return Quantity(value, "J·s", interval, own.provenance)


def _product(joules: float | None, seconds: float, inferences: int) -> float | None:
    return None if joules is None else joules / inferences * seconds / inferences


def busy_cores(measurement: Measurement) -> Quantity | None:
    """CPU time over wall time: how many cores the worker kept busy, by block."""
    values = [t.cpu_s / t.elapsed_s for t in measurement.trials if t.elapsed_s > 0 and t.cpu_s > 0]
    if not values:
        return None
    value, interval = geometric_mean(values)
    return Quantity(value, "", interval)


def energy_delta(report: Report) -> tuple[Delta, MeterInfo] | None:
    """The main comparison's delta of the meter shown first."""
    return aggregates.energy_delta(report, report.comparisons[0]) if report.comparisons else None


def saved(report: Report) -> Quantity | None:
    """Joules per inference that the main comparison saves; ``None`` unless both arms' are of one kind.

    The mean difference of the paired blocks with its interval, which is also what the break-even is reckoned from.
    """
    found, arms = energy_delta(report), pair(report)
    if found is None or arms is None or len(aggregates.sources(found[0])) != 1:
        return None
    of = aggregates.joules_of(found[1])
    before, after = ({t.block: j / t.inferences for t in m.trials if (j := of(t)) is not None} for m in arms)
    blocks = sorted(before.keys() & after.keys())
    if not blocks:
        return None
    value, ends = difference_interval([before[b] for b in blocks], [after[b] for b in blocks])
    return Quantity(value, "J", ends, found[0].candidate.provenance)


def label(report: Report) -> tuple[str, str]:
    """The energy label of the main comparison.

    Args:
        report: The record.

    Returns:
        The letter and an empty text, or an empty letter and why there is none. Graded on the pessimistic end of the
        ratio's interval; never from estimates, from a recording, or where the A/A control does not allow a verdict.
    """
    found = energy_delta(report)
    if found is None:
        return "", "no energy of both arms"
    delta, _ = found
    sources = aggregates.sources(delta)
    if sources != {"measured"}:
        return "", f"energy was {' / '.join(sorted(sources))}, not measured"
    if aggregates.void(report, delta.metric):
        return "", "the A/A control failed"
    control = aggregates.control_for(report, delta.metric, report.comparisons[0].baseline)
    if control is None or not control.passed:
        return "", "no A/A control of this metric"
    if delta.ci95 is None:
        return "", "too few blocks for an interval"
    if delta.verdict == "not established" and delta.ci95[1] < 1:
        return "", delta.reason
    return footprint.energy_label(delta.ci95[1]), ""


def use_ratio(report: Report) -> tuple[Delta, str] | None:
    """The delta that a rebound is reckoned from: measured joules, else CPU time; with its name."""
    found = energy_delta(report)
    if found is not None and "estimated" not in aggregates.sources(found[0]):
        return found[0], f"energy per inference, {found[1].provenance}"
    deltas = report.comparisons[0].deltas if report.comparisons else ()
    name = aggregates.time_name(report)
    delta = next((d for d in deltas if d.metric == name), None)
    return None if delta is None else (delta, name)
