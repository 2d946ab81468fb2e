"""The report as a model card for a model hub: YAML front matter with emissions and results, then the report in short.

The keys are those that Hugging Face documents for ``README.md`` (``co2_eq_emissions``, ``model-index``);
docs/disclosure.md has the mapping.
"""

from __future__ import annotations

from typing import Any

from compressor import footprint
from compressor.compare import total_domains
from compressor.report import aggregates, numbers, use
from compressor.report.markdown import escape, tabulate
from compressor.report.metrics import intensity_text
from compressor.report.text import clean, named
from compressor.report.view import view
from compressor.results import Quantity, Report

_TRAINS = {"distill", "qat", "train", "fine-tune"}
_NAME = 80


def render_card(report: Report) -> str:
    """Render a report as a model card.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        Markdown with YAML front matter. Emissions are left out of the front matter where the record has no energy of
        every stage or no carbon intensity; the text then says so.
    """
    import yaml

    front = yaml.safe_dump(_front(report), sort_keys=False, allow_unicode=True, width=100)
    v = view(report)
    out = [f"---\n{front}---", f"# {escape(v.title)}", f"**{escape(v.headline)}**"]
    out.append("\n".join(f"- {escape(chip.label)}: **{escape(chip.text)}**" for chip in v.chips))
    if v.warnings:
        out.append("\n".join(("> **Read this first**", *(f">\n> {escape(w)}" for w in v.warnings))))
    out += ["## Environmental impact", "\n".join(f"- {escape(line)}" for line in _impact(report))]
    out += ["## Evaluation", escape(v.arms.caption), tabulate(v.arms)]
    repeat = next(s for s in v.sections if s.key == "repeat")
    out += ["## How it was made", "\n".join(f"- {escape(a)}: {escape(b)}" for a, b in repeat.facts)]
    out += [f"{escape(v.colophon)}. Everything behind these numbers is in report.json."]
    return "\n\n".join(out) + "\n"


def training_type(report: Report) -> str:
    """``fine-tuning`` if a method trained the model further, else what was done to it."""
    methods = {step.method for m in report.measurements for step in m.artifact.steps} | set(report.methods)
    return "fine-tuning" if methods & _TRAINS else "compression without training"


def emissions_g(report: Report) -> tuple[float | None, str, str]:
    """What making this model emitted: training as stated by the user, and compressing as counted.

    Args:
        report: The record.

    Returns:
        g CO2e, where the energy comes from, and why there is no figure (empty if there is one).
    """
    found = use.intensity(report)
    if found is None:
        return None, "", "neither a country nor a carbon intensity was given"
    cost = compressing(report)
    if cost is None:
        return None, "", "the energy of compressing was not read in every stage"
    said = use.usage(report)
    joules, source = cost
    grams = footprint.operational_carbon_g(joules, found.g_per_kwh, said.pue)
    if said.training_kwh is None:
        return grams, f"compressing {source}; training not included", ""
    grams += said.training_kwh * said.pue * found.g_per_kwh
    return grams, f"training as stated by the user, compressing {source}", ""


def compressing(report: Report) -> tuple[float, str] | None:
    """Joules of all stages by the meter shown first, and where they come from; ``None`` if a stage lacks them."""
    meter = aggregates.primary_meter(report)
    if meter is None or not report.stages:
        return None
    keys = total_domains(meter)
    if any(key not in stage.energy_j for stage in report.stages for key in keys):
        return None
    return sum(stage.energy_j[key] for stage in report.stages for key in keys), f"{meter.provenance} by {meter.name}"


def _front(report: Report) -> dict[str, Any]:
    arms = use.pair(report)
    library = "onnx" if arms is None or arms[1].artifact.format == "onnx" else "pytorch"
    front: dict[str, Any] = {"library_name": library}
    tags = ["compressor", library, *(clean(name, 40) for name in report.methods)]
    front["tags"] = list(dict.fromkeys(tags))
    if not report.task.synthetic:
        front["metrics"] = [clean(report.task.metric, 40)]
    grams, source, _ = emissions_g(report)
    if grams is not None:
        front["co2_eq_emissions"] = {
            # In grams; as many digits as an intensity of a whole year and country supports.
            "emissions": float(f"{grams:.3g}"),
            "source": clean(f"{report.tool}: {source}; {intensity_text(report)}, PUE {use.usage(report).pue:g}", 300),
            "training_type": training_type(report),
            "hardware_used": clean(_hardware(report), 120),
        }
        found = use.intensity(report)
        if found is not None and found.place:
            front["co2_eq_emissions"]["geographical_location"] = clean(found.place, 60)
    results = _results(report)
    if results:
        front["model-index"] = [{"name": clean(report.model.name, _NAME), "results": results}]
    return front


def _hardware(report: Report) -> str:
    if not report.measurements:
        return "not recorded"
    e = report.measurements[0].environment
    return ", ".join((f"{e.cpu} ({e.cores} cores)", *e.gpus))


def _results(report: Report) -> list[dict[str, Any]]:
    arms = use.pair(report)
    if arms is None or arms[1].score is None:
        return []
    candidate, score = arms[1], arms[1].score
    metrics: list[dict[str, Any]] = [
        {"type": clean(score.name, 40), "name": clean(score.name, 40), "value": float(f"{score.value:.4g}")}
    ]
    cpu = aggregates.cpu_time(report, candidate).quantity
    if cpu is not None:
        metrics.append(
            {"type": "cpu_time_per_inference_s", "name": "CPU time per inference (s)", "value": _rounded(cpu)}
        )
    joules = use.energy_of(report, candidate)
    if joules is not None:
        name = f"energy per inference (J), {joules.provenance}"
        metrics.append({"type": f"energy_per_inference_j_{joules.provenance}", "name": name, "value": _rounded(joules)})
    data = "synthetic inputs" if report.task.synthetic else clean(report.task.name, _NAME)
    dataset = {"name": data, "type": clean(report.task.name, _NAME), "split": "test"}
    return [{"task": {"type": _task(report)}, "dataset": dataset, "metrics": metrics}]


def _task(report: Report) -> str:
    """The hub's name of the task, as far as the inputs and the score tell."""
    text = any(one.name == "input_ids" for one in report.model.inputs)
    if text:
        known = "text-classification" if report.confusion is not None else "other"
        return "text-generation" if report.task.metric == "perplexity" else known
    shape = report.model.inputs[0].shape if report.model.inputs else ()
    return "image-classification" if report.confusion is not None and len(shape) == 4 else "other"


def _rounded(mean: Quantity) -> float:
    """The value to the digits that its interval supports."""
    return round(mean.value, numbers.places(mean.value, mean.ci95))


def _impact(report: Report) -> list[str]:
    """What the front matter says, in words, with what it leaves out."""
    grams, source, why = emissions_g(report)
    lines = [
        f"co2_eq_emissions is not filled in: {why}."
        if grams is None
        else f"Making this model: {numbers.quantity(grams, use.CARBON)} ({source})."
    ]
    arms = use.pair(report)
    if arms is not None:
        for m in arms:
            joules = use.energy_of(report, m)
            if joules is not None:
                shown = numbers.with_interval(joules.value, joules.unit, joules.ci95)
                lines.append(f"Energy per inference, {named(m.arm)}: {shown}, {joules.provenance}.")
            index = use.sci(report, m)
            if index is not None:
                shown = numbers.with_interval(index.value, index.unit, index.ci95)
                lines.append(f"SCI per inference, {named(m.arm)}: {shown}, from {index.provenance} joules.")
    letter, why = use.label(report)
    lines.append(f"Energy label: {letter}" if letter else f"Energy label: none ({why}).")
    lines.append(f"Carbon intensity: {intensity_text(report)}.")
    return lines
