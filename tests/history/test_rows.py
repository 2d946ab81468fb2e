"""What is taken from a record: the same figures as the report's, and nothing that it does not say."""

import json
from dataclasses import replace

import pytest

from compressor.compare import CPU_TIME
from compressor.history.rows import Mean, digest_of, machine_of, rows_of
from compressor.results import Usage, Workload
from compressor.store.records import dump_report


def candidate(report):
    return next(a for a in rows_of(report, "d" * 64, None)[1] if a.listed)


def test_the_row_repeats_the_report(fictional):
    report = fictional.measured()
    run, arms = rows_of(report, "d" * 64, "/runs/1")
    assert [a.role for a in arms] == ["baseline", "baseline", "candidate"]
    arm, delta = arms[2], {d.metric: d for d in report.comparisons[0].deltas}
    energy = delta["energy per inference (rapl)"]
    assert arm.energy_j == Mean(energy.candidate.value, energy.candidate.ci95)
    assert arm.energy_ratio == Mean(energy.ratio, energy.ci95)
    assert arm.energy_verdict == energy.verdict == "better"
    assert arm.cpu_s == Mean(delta[CPU_TIME].candidate.value, delta[CPU_TIME].candidate.ci95)
    assert (arm.provenance, arm.meter, arm.method, arm.batch, arm.threads) == ("measured", "rapl", "int8", 32, 1)
    assert arm.score.value == 0.9188
    assert arm.score.ci95[0] < 0.9188 < arm.score.ci95[1]
    assert arms[arm.baseline].arm == report.comparisons[0].baseline == "ONNX fp32"
    assert run.compress_j == sum(s.energy_j["rapl/package-0"] for s in report.stages)
    assert run.compress_s == sum(s.elapsed_s for s in report.stages)
    assert (run.kind, run.folder, run.compress_provenance) == ("compress", "/runs/1", "measured")


def test_a_label_only_for_measured_energy_of_a_sound_run(fictional):
    assert candidate(fictional.measured()).label == "C"
    assert candidate(fictional.estimated()).label is None
    assert candidate(fictional.control_failed()).label is None
    assert candidate(fictional.control_failed()).energy_verdict == "not established"


def test_measured_and_estimated_joules_have_no_ratio(fictional):
    arm = candidate(fictional.mixed())
    assert arm.provenance == "estimated"
    assert arm.energy_ratio is None
    assert arm.cpu_ratio is not None


def test_what_was_not_read_is_absent_not_zero(fictional):
    arm = candidate(fictional.nothing_measured())
    assert (arm.energy_j, arm.cpu_s, arm.provenance, arm.meter) == (None, None, None, None)
    report = fictional.measured()
    stages = (replace(report.stages[0], energy_j={}), *report.stages[1:])
    assert rows_of(replace(report, stages=stages), "d", None)[0].compress_j is None
    assert candidate(fictional.no_task()).score is None


def test_carbon_only_where_the_user_said_where(fictional):
    report = replace(fictional.measured(), usage=None)
    assert candidate(report).carbon_g is None
    told = replace(report, usage=Usage(intensity_g_per_kwh=360.0, pue=2.0))
    arm = candidate(told)
    assert arm.carbon_g == pytest.approx(arm.energy_j.value / 3.6e6 * 360 * 2)
    run = rows_of(told, "d", None)[0]
    assert run.compress_carbon_g == pytest.approx(run.compress_j / 3.6e6 * 720)
    assert candidate(replace(report, usage=Usage(country="FR"))).carbon_g > 0
    assert candidate(replace(report, usage=Usage())).carbon_g is None


def test_a_benchmark_lists_every_file_at_every_size(bench_record):
    run, arms = rows_of(bench_record, "d", None)
    assert len(arms) == 6
    assert [a.position for a in arms] == list(range(6))
    assert all(a.listed for a in arms)
    assert arms[5].baseline == 4  # its own run's, not the first run's
    assert {a.model for a in arms} == {"PyTorch fp32", "ONNX fp32", "ONNX int8"}
    assert (run.kind, run.compress_j, run.headline) == ("bench", None, "")


def test_tokens_are_told_from_inferences(fictional):
    report = fictional.measured()
    for phase, said in (("prefill", "prefill of 16 tokens"), ("decode", "decode 4 after 16 tokens")):
        plan = replace(report.measurements[0].plan, workload=Workload(phase, 16, 4))
        arms = tuple(replace(m, plan=plan) for m in report.measurements)
        assert candidate(replace(report, measurements=arms)).workload == said
    assert candidate(report).workload == ""


def test_agreement_belongs_to_one_original(fictional):
    report = fictional.synthetic()
    other = replace(report, model=replace(report.model, sha256="ef" * 32))
    assert rows_of(report, "d", None)[0].data != rows_of(other, "d", None)[0].data


def test_the_digest_does_not_hang_on_layout(fictional):
    text = dump_report(fictional.measured())
    again = json.dumps(json.loads(text), indent=3)
    assert digest_of(text) == digest_of(again)
    assert digest_of(text) != digest_of(text.replace("resnet8", "resnet9"))


def test_the_machine_is_what_must_be_equal_to_compare(fictional):
    environment = fictional.measured().measurements[0].environment
    assert machine_of(environment) == "Fictional CPU @ 2.5 GHz · 2 cores"
    with_gpu = replace(environment, gpus=("GPU X",), governor="performance", cores=1)
    assert machine_of(with_gpu) == "Fictional CPU @ 2.5 GHz · 1 core · GPU X · governor performance"
