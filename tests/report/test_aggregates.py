import math
import subprocess
import sys
from dataclasses import replace

import pytest

from compressor.compare import CPU_TIME, WALL_TIME
from compressor.report import aggregates
from compressor.results import MeterInfo, Score


def test_a_mean_follows_from_the_trials_where_no_comparison_holds_it(reports):
    report = reports["measured"]
    twin = next(m for m in report.measurements if m.role == "control")
    amount = aggregates.cpu_time(report, twin)
    logs = [math.log(t.cpu_s / t.inferences) for t in twin.trials]
    assert amount.quantity is not None
    assert amount.quantity.value == pytest.approx(math.exp(sum(logs) / len(logs)))


def test_a_partly_read_domain_says_so(reports):
    report = reports["measured"]
    one = report.measurements[0]
    trials = (replace(one.trials[0], energy_j={}), *one.trials[1:])
    amount = aggregates.energy(report, replace(one, trials=trials), one.meters[0])
    assert amount.why == "read in 5 of 6 blocks"


def test_a_counter_that_stands_still_gives_a_reason_and_no_zero(reports):
    report = reports["measured"]
    twin = next(m for m in report.measurements if m.role == "control")
    still = replace(twin, trials=tuple(replace(t, energy_j={"rapl/package-0": 0.0}) for t in twin.trials))
    amount = aggregates.energy(report, still, still.meters[0])
    assert amount.quantity is None
    assert amount.why == "nothing that the meter could resolve"


def test_energy_above_idle_is_gross_less_idle_power(reports):
    report = reports["measured"]
    twin = next(m for m in report.measurements if m.role == "control")
    gross = aggregates.energy(report, twin, twin.meters[0]).quantity
    above = aggregates.energy(report, twin, twin.meters[0], above_idle=True).quantity
    seconds = aggregates.wall_time(report, twin).quantity
    assert gross is not None
    assert above is not None
    assert seconds is not None
    assert above.value == pytest.approx(gross.value - 1.5 * seconds.value, rel=1e-3)
    assert aggregates.energy(report, replace(twin, idle_power_w={}), twin.meters[0], above_idle=True).why == (
        "idle power not read"
    )


def test_what_a_comparison_says_wins_over_the_trials(reports):
    report = reports["measured"]
    first, *others = report.comparisons
    known = {side: replace(getattr(first.deltas[0], side), value=42.0) for side in ("baseline", "candidate")}
    deltas = (replace(first.deltas[0], **known), *first.deltas[1:])
    report = replace(report, comparisons=(replace(first, deltas=deltas), *others))
    assert first.deltas[0].metric == "energy per inference (rapl)"
    for side, seconds in (("baseline", 1.013e-3), ("candidate", 373e-6)):
        one = aggregates.arm(report, getattr(first, side))
        assert aggregates.energy(report, one, one.meters[0]).quantity == known[side]
        assert aggregates.cpu_time(report, one).quantity.value == pytest.approx(seconds, rel=0.01)


def test_the_joules_of_a_meter_are_those_of_its_total(reports):
    one = reports["measured"].measurements[0]
    trial = one.trials[0]
    assert aggregates.joules_of(one.meters[0])(trial) == trial.energy_j["rapl/package-0"]
    assert aggregates.joules_of(replace(one.meters[0], total=()))(trial) == pytest.approx(sum(trial.energy_j.values()))


def test_on_a_gpu_the_time_on_the_clock_stands_for_cost(reports):
    report = reports["estimated"]
    on_gpu = replace(
        report,
        measurements=tuple(replace(m, runtime=replace(m.runtime, device="cuda:0")) for m in report.measurements),
    )
    one = report.measurements[0]
    trial = one.trials[0]
    for which, seconds, mean in (
        (report, trial.cpu_s, aggregates.cpu_time),
        (on_gpu, trial.elapsed_s, aggregates.wall_time),
    ):
        assert aggregates.trial_time(which)(trial) == seconds / trial.inferences
        assert aggregates.time_cost(which, one) == mean(which, one)
    assert (aggregates.time_name(report), aggregates.time_name(on_gpu)) == (CPU_TIME, WALL_TIME)
    assert aggregates.time_name(replace(on_gpu, comparisons=())) == WALL_TIME


def test_the_meter_shown_first_is_one_that_the_main_comparison_holds(fictional):
    wall = MeterInfo("log", ("wall",), "measured", "machine", 1.0, 0.1, "wall meter (fictional)")
    report = fictional.build((fictional.RAPL, wall))
    first, *others = report.comparisons
    assert aggregates.primary_meter(report).name == "rapl"
    without = replace(first, deltas=tuple(d for d in first.deltas if "rapl" not in d.metric))
    assert aggregates.primary_meter(replace(report, comparisons=(without, *others))).name == "log"


def test_why_joules_are_not_compared(fictional, reports):
    wall = MeterInfo("log", ("wall",), "measured", "machine", 1.0, 0.1, "wall meter (fictional)")
    said = {name: aggregates.unlike_energy(reports[name], reports[name].comparisons[0]) for name in reports}
    assert said["measured"] == said["estimated"] == said["synthetic"] == ""
    assert said["mixed"] == "measured in one arm, estimated in the other"
    assert said["nothing measured"] == "measured in ONNX fp32 alone"
    other = {m.arm: m for m in fictional.build((wall,)).measurements}
    report = reports["measured"]
    each = fictional.assemble(tuple(other[m.arm] if m.role == "candidate" else m for m in report.measurements))
    assert aggregates.unlike_energy(each, each.comparisons[0]) == "each arm has another meter"


def test_what_the_runtime_alone_is_worth_is_paired_by_block(reports):
    report = reports["measured"]
    slow, fast, ratio = aggregates.runtime_gain(report)
    assert (slow.arm, fast.arm) == ("PyTorch fp32", "ONNX fp32")
    logs = [math.log(b.cpu_s / a.cpu_s) for a, b in zip(slow.trials, fast.trials, strict=True)]
    assert ratio.value == pytest.approx(math.exp(sum(logs) / len(logs)))
    assert ratio.ci95[0] < ratio.value < ratio.ci95[1] < 1
    # Neither a compressed arm nor a twin on another runtime says anything of the runtime alone.
    moved = [
        replace(m, runtime=replace(m.runtime, name="openvino")) if m.role == "candidate" else m
        for m in report.measurements
    ]
    slow, fast, _ = aggregates.runtime_gain(replace(report, measurements=tuple(reversed(moved))))
    assert (slow.arm, fast.arm) == ("PyTorch fp32", "ONNX fp32")
    one_runtime = tuple(m for m in report.measurements if m.runtime.name == "onnxruntime")
    assert aggregates.runtime_gain(replace(report, measurements=one_runtime)) is None


def test_a_control_is_that_of_its_metric_and_of_the_baseline_if_it_has_one(reports):
    report = reports["measured"]
    foreign = tuple(replace(c, arm="another", ratio=2.0) for c in report.control)
    both = replace(report, control=(*foreign, *report.control))
    found = aggregates.control_for(both, CPU_TIME, "ONNX fp32")
    assert (found.metric, found.arm) == (CPU_TIME, "ONNX fp32")
    assert aggregates.control_for(both, CPU_TIME, "PyTorch fp32").arm == "another"
    assert aggregates.control_for(both, "no such metric", "ONNX fp32") is None


def test_controls_have_passed_failed_or_too_few_blocks(reports):
    def counts(report):
        return len(aggregates.failed_controls(report)), len(aggregates.unfinished_controls(report))

    report = reports["measured"]
    few = replace(report, control=tuple(replace(c, ci95=None, passed=False) for c in report.control))
    assert [counts(r) for r in (report, reports["control failed"], few)] == [(0, 0), (6, 0), (0, 6)]


def test_a_file_s_size_alone_is_exact(reports):
    deltas = reports["measured"].comparisons[0].deltas
    assert [d.metric for d in deltas if aggregates.is_exact(d)] == ["size"]


def test_compression_is_alone_on_one_runtime_and_device(reports):
    report = reports["measured"]
    alone, together = report.comparisons
    assert aggregates.compares_compression(report, alone)
    assert not aggregates.compares_compression(report, together)
    assert not aggregates.compares_compression(report, replace(alone, baseline="no such arm"))


def test_power_is_joules_over_seconds(reports):
    one = reports["measured"].measurements[0]
    watts = [t.energy_j["rapl/package-0"] / t.elapsed_s for t in one.trials]
    assert aggregates.power(one, one.meters[0]).quantity.value == pytest.approx(sum(watts) / len(watts), rel=1e-3)
    assert aggregates.power(one, one.meters[0]).quantity.unit == "W"
    short = replace(one, trials=tuple(replace(t, elapsed_s=t.elapsed_s / 10) for t in one.trials))
    assert aggregates.power(short, one.meters[0]).quantity.value == pytest.approx(
        10 * sum(watts) / len(watts), rel=1e-3
    )


def test_the_interval_of_a_mean_is_the_normal_one():
    low, high = aggregates.score_interval(Score("mse", 2.5, "", False, (1.0, 2.0, 3.0, 4.0)))
    half = 1.959964 * math.sqrt(5 / 3 / 4)
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half))
    assert aggregates.score_interval(Score("mse", 2.5, "", False, (2.5,))) is None


def test_the_interval_of_a_share_is_wilsons():
    # 8 of 10: (0.490, 0.943), as in the tables.
    low, high = aggregates.score_interval(Score("accuracy", 0.8, "fraction", True, (1.0,) * 8 + (0.0,) * 2))
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert aggregates.score_interval(Score("f1", 0.8, "fraction", True)) is None


def test_reporting_and_storing_need_no_torch():
    code = (
        "import sys, compressor.store.records, compressor.report.html, compressor.report.markdown,"
        "compressor.report.terminal, compressor.report.figures\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'jinja2', 'rich', 'pydantic'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
