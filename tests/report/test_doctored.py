"""More doctored measurements (fictional data): what the first screen says of each, in every format's words."""

import csv
import io
import json
import re
import statistics
from dataclasses import replace

import pytest

from compressor.report import aggregates
from compressor.report.formats import FORMATS
from compressor.report.lifecycle import life
from compressor.report.text import named
from compressor.report.view import view
from compressor.report.waterfall import links
from compressor.results import MeterInfo, Score, Step, Workload

WALL = MeterInfo("log", ("wall",), "measured", "machine", 1.0, 0.1, "wall meter (fictional)")


def changed(fictional, report, role, change):
    """The report with one role's arms changed, everything that follows from them made anew."""
    return fictional.assemble(tuple(change(m) if m.role == role else m for m in report.measurements))


def scaled(measurement, cpu=1.0, joules=None):
    def trial(t):
        energy = {key: value * (joules or {}).get(key.split("/")[0], 1.0) for key, value in t.energy_j.items()}
        return replace(t, cpu_s=t.cpu_s * cpu, energy_j=energy)

    return replace(measurement, trials=tuple(map(trial, measurement.trials)))


def control_failed_on_time(fictional, report):
    return changed(fictional, report, "control", lambda m: scaled(m, cpu=1.3))


def dearer_in_joules(fictional, report):
    return changed(fictional, report, "candidate", lambda m: scaled(m, joules={"rapl": 4.0}))


def meters_disagree(fictional, report):
    both = fictional.build((fictional.RAPL, WALL))
    return changed(fictional, both, "candidate", lambda m: scaled(m, joules={"log": 4.0}))


def read_in_one_arm(fictional, report):
    def without(m):
        return replace(m, meters=(), trials=tuple(replace(t, energy_j={}) for t in m.trials))

    return changed(fictional, report, "candidate", without)


def one_block_unread(fictional, report):
    def without(m):
        return replace(m, trials=(replace(m.trials[0], energy_j={}), *m.trials[1:]))

    return changed(fictional, report, "candidate", without)


def kept_after_pruning(fictional, report):
    steps = (Step("prune", {}), Step("export", {}), Step("int8", {"kept_fp32": True}))
    return changed(fictional, report, "candidate", lambda m: replace(m, artifact=replace(m.artifact, steps=steps)))


def tokens(fictional, report):
    plan = replace(report.measurements[0].plan, workload=Workload("decode", 128, 32))
    return replace(report, measurements=tuple(replace(m, plan=plan) for m in report.measurements))


CASES = {
    control_failed_on_time: (
        "less [61.1, 65.0] energy per inference than ONNX fp32, measured by rapl; accuracy",
        "Energy per inference: less, established",
        "A/A control: FAILED on CPU time: no verdict on it",
    ),
    dearer_in_joules: (
        "Costs more: 48 % more [40, 56] energy per inference",
        "Energy per inference: MORE, established",
    ),
    meters_disagree: (
        "The meters disagree on energy per inference: rapl 63.1 % less [61.1, 65.0], better; log 48 % more [40, 56], "
        "worse. The headline is by rapl.",
        "ONNX int8 costs more than ONNX fp32 in energy per inference (log).",
    ),
    read_in_one_arm: (
        "CPU time per inference than ONNX fp32; energy is not comparable: measured in ONNX fp32 alone",
        "Energy: measured in ONNX fp32 alone: not comparable",
        "CPU time per inference: less, established",
    ),
    one_block_unread: (
        "energy is not comparable: not read in every block",
        "Energy: not read in every block: not comparable",
        "rapl/dram gave no reading in some blocks of ONNX int8",
    ),
    kept_after_pruning: (
        "63.1 % less [61.1, 65.0] energy per inference",
        "kept in fp32: int8 does not pay anywhere in this model on Fictional CPU @ 2.5 GHz",
    ),
    tokens: ("An inference is here one token: decode 32 after 128 tokens.",),
}


@pytest.mark.parametrize("doctor", CASES, ids=lambda doctor: doctor.__name__)
def test_the_first_screen_says_what_is_so(doctor, fictional, reports):
    report = doctor(fictional, reports["measured"])
    for name in ("md", "txt"):
        text = " ".join(re.sub(r"\\(.)", r"\1", FORMATS[name].render(report)).replace("**", "").split())
        for words in CASES[doctor]:
            assert words in text, name
    assert json.loads(FORMATS["sci"].render(report))["headline"] == view(report).headline


@pytest.mark.parametrize(
    ("doctor", "metric", "verdict"),
    [
        (control_failed_on_time, "energy per inference (rapl)", "better"),
        (dearer_in_joules, "energy per inference (rapl)", "worse"),
        (read_in_one_arm, "CPU time per inference", "better"),
        (one_block_unread, "CPU time per inference", "better"),
    ],
)
def test_the_table_of_arms_has_the_headline_s_verdict(doctor, metric, verdict, fictional, reports):
    rows = csv.DictReader(io.StringIO(FORMATS["csv"].render(doctor(fictional, reports["measured"]))))
    row = next(row for row in rows if row["role"] == "candidate")
    assert (row["verdict_metric"], row["verdict"]) == (metric, verdict)


def test_a_control_that_failed_on_one_metric_voids_that_one_alone(fictional, reports):
    report = control_failed_on_time(fictional, replace(reports["measured"]))
    v = view(report)
    verdicts = {row[0].text: row[-1].text for t in v.comparisons[0].tables for row in t.rows}
    assert verdicts["CPU time per inference"] == "void"
    assert verdicts["Energy per inference (rapl), measured"] == "better"
    assert (v.tone, life(report).paid_back.inferences is None) == ("good", False)
    assert v.runtime_alone.endswith("(void: the A/A control failed).")
    estimated = control_failed_on_time(fictional, reports["estimated"])
    assert view(estimated).tone == "void"
    assert life(estimated).paid_back.reason == "the A/A control failed"


def test_a_meter_that_not_every_arm_has_is_on_no_axis(fictional, reports):
    report = one_block_unread(fictional, reports["measured"])
    assert aggregates.measured_meter(reports["measured"]).name == "rapl"
    assert aggregates.measured_meter(report) is None
    assert links(report)[0] == "CPU time per inference"


def test_below_idle_is_no_energy(reports):
    report = reports["measured"]
    hot = replace(report.measurements[0], arm="hot", idle_power_w={"rapl/package-0": 500.0, "rapl/dram": 500.0})
    amount = aggregates.energy(report, hot, hot.meters[0], above_idle=True)
    assert (amount.quantity, amount.why) == (None, "below idle in some blocks")


def test_a_headline_that_was_edited_is_not_shown(reports):
    report = replace(reports["worse"], headline="99 % less energy")
    for name in ("md", "txt", "card", "annex", "sci"):
        assert "99 % less" not in FORMATS[name].render(report)


def test_a_domain_that_is_the_whole_total_is_not_told_twice(reports):
    v = view(reports["measured"])
    told = [row[0].text for t in v.comparisons[0].tables for row in t.rows]
    assert "Energy per inference (rapl/dram), measured" in told
    assert "Energy per inference (rapl/package-0), measured" not in told


def test_what_is_saved_over_the_uses_has_the_interval_of_the_paired_difference(reports):
    """By hand from the trials: the mean difference of six blocks, 2.5706 standard errors of it to each side."""
    report = reports["measured"]
    before, after = (aggregates.arm(report, name).trials for name in ("ONNX fp32", "ONNX int8"))
    joules = [[t.energy_j["rapl/package-0"] / 2048 for t in trials] for trials in (before, after)]
    saved = [b - a for b, a in zip(*joules, strict=True)]
    centre = statistics.mean(saved)
    half = 2.5706 * statistics.stdev(saved) / 6**0.5
    kj = [1e7 * x / 1000 for x in (centre, centre - half, centre + half)]
    metrics = next(s for s in view(report).sections if s.key == "metrics")
    told = dict(metrics.facts)["Saved over 10.0 million uses"]
    assert told.startswith(f"{kj[0]:.0f} kJ [{kj[1]:.0f}, {kj[2]:.0f}] (measured), ")
    assert f"about {centre * 1e7 / (0.0116 * 3.6e6):.2g} phone charges" in told


def test_throughput_has_the_interval_of_its_time(reports):
    v = view(reports["measured"])
    wall, rate = (next(i for i, c in enumerate(v.arms.columns) if c.key == key) for key in ("wall", "throughput"))
    row = v.arms.rows[1]
    assert (row[wall].text, row[wall].note) == ("1.053 ms", "[1.036, 1.070]")
    assert (row[rate].text, row[rate].note) == ("950", "[934, 965]")


def test_watts_that_were_assumed_are_no_power(reports):
    [table] = next(s for s in view(reports["estimated"]).sections if s.key == "energy").tables
    assert {row[-1].text for row in table.rows} == {"assumed, not read"}


def test_the_machine_of_a_gpu_s_run_is_the_gpu(reports):
    report = reports["measured"]
    changed = tuple(
        replace(m, runtime=replace(m.runtime, device="cuda:0"), environment=replace(m.environment, gpus=("A GPU",)))
        for m in report.measurements
    )
    assert " · Fictional CPU @ 2.5 GHz · " in view(report).subtitle
    assert " · A GPU · " in view(replace(report, measurements=changed)).subtitle


def test_an_error_that_grew_is_not_lost(fictional, reports):
    report = reports["measured"]

    def scored(m):
        values = tuple(10.0 + i % 7 + (i % 3 if m.role == "candidate" else 0) for i in range(300))
        return replace(m, score=Score("mse", sum(values) / 300, "target²", False, values))

    arms = tuple(map(scored, report.measurements))
    report = replace(report, task=replace(report.task, metric="mse"), measurements=arms)
    comparisons = fictional.assemble(arms).comparisons
    v = view(replace(report, comparisons=comparisons))
    assert v.headline.endswith("MSE 13.0 target² → 14.0 target², worse by more than 0.01 target²")
    assert any((c.label, c.text) == ("MSE", "worse by more than 0.01 target²") for c in v.chips)
    assert v.key_figures[2].value == "1.00 target² worse"


def test_a_token_is_the_unit_of_a_language_model_s_sci(fictional, reports):
    sci = json.loads(FORMATS["sci"].render(tokens(fictional, reports["measured"])))
    assert (sci["R"]["unit"], sci["M"]["unit"]) == ("token", "g CO2e/token")


def test_names_are_cut_in_their_middle(fictional):
    long = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 "
    arms = tuple(replace(arm, name=f"{long}{arm.name}") for arm in fictional.ARMS)
    text = FORMATS["txt"].render(fictional.build((fictional.RAPL,), arms))
    assert "sentence-trans…2-v2 ONNX int8  91.9 %" in text
    assert "sentence-trans…2-v2 ONNX fp32  91.9 %" in text
    labels = [link.label for link in links(fictional.build((fictional.RAPL,), arms))[1]]
    assert labels[:2] == [named(f"{long}{name}") for name in ("PyTorch fp32", "ONNX fp32")]
    assert "retained within 1 point" in " ".join(text.split("\n\n")[0].split())


def test_a_stage_that_broke_the_model_does_not_press_the_others_flat(fictional, reports):
    from compressor.report.figures import figures

    report = reports["measured"]
    right = (1.0,) * 2000 + (0.0,) * 8000
    broken = next(m for m in report.measurements if m.role == "candidate")
    score = replace(broken.score, value=0.2, per_example=right)
    stage = replace(broken, arm="ONNX prune", role="stage", score=score)
    svg = figures(replace(report, measurements=(*report.measurements, stage)))["cost"]
    assert "ONNX prune at 20.0 %" in svg.svg
    assert ">40<" not in svg.svg
    assert "off the scale" in svg.caption
