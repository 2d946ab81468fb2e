import math
import subprocess
import sys
from dataclasses import replace

import pytest

from compressor.report import aggregates
from compressor.results import Score


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
