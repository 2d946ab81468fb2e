"""Deltas and verdicts on made-up measurements; every figure here is invented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from invented import ARTIFACT, MACHINE, PLAN, measurement

from compressor import compare
from compressor.results import (
    Control,
    Measurement,
    MeterInfo,
    StageCost,
    Trial,
)

RAPL = MeterInfo(
    "rapl", ("package-0", "core-0", "dram-0"), "measured", "package", 1e-3, 1e-6, "powercap", ("package-0", "dram-0")
)
CPU = MeterInfo("cpu-time", ("cpu",), "estimated", "process", 0.0, 0.0, "10 W a core, unknown CPU")


def measured(
    arm: str, seconds: list[float], watts: float = 20.0, meter: MeterInfo = RAPL, **fields: Any
) -> Measurement:
    """An arm that took so many seconds per inference in each block, at a fixed power."""
    trials = []
    for block, each in enumerate(seconds):
        elapsed = each * 100
        energy = {
            f"{meter.name}/{domain}": watts * elapsed * share
            for domain, share in zip(meter.domains, (1, 0.8, 0.1), strict=False)
        }
        trials.append(Trial(block, 100, elapsed, elapsed, energy, 0.0, None))
    return measurement(arm, trials, **{"meters": (meter,), **fields})


def noisy(mean: float, noise: float, seed: int, blocks: int = 8) -> list[float]:
    return (mean * np.random.default_rng(seed).lognormal(0, noise, blocks)).tolist()


def deltas(comparison: Any) -> dict[str, Any]:
    return {delta.metric: delta for delta in comparison.deltas}


BASE, TWIN, FAST = noisy(0.010, 0.005, 1), noisy(0.010, 0.005, 2), noisy(0.004, 0.005, 3)


def test_measured_saving_is_better_and_totals_leave_nested_domains_out() -> None:
    base, cand = measured("base", BASE), measured("cand", FAST)
    controls = compare.control(base, measured("twin", TWIN))
    found = deltas(compare.compare(base, cand, controls))
    total = found["energy per inference (rapl)"]
    assert total.verdict == "better"
    assert total.ratio == pytest.approx(0.4, rel=0.02)
    assert total.baseline.provenance == "measured"
    # package + dram, not the core inside the package: 20 W times 1.1
    assert total.baseline.value == pytest.approx(0.010 * 20 * 1.1, rel=0.02)
    assert found["energy per inference (rapl/core-0)"].baseline.value == pytest.approx(0.010 * 16, rel=0.02)


def test_more_joules_are_worse() -> None:
    base, cand = measured("base", FAST), measured("cand", BASE)
    controls = compare.control(base, measured("twin", noisy(0.004, 0.005, 9)))
    found = deltas(compare.compare(base, cand, controls))
    assert found["energy per inference (rapl)"].verdict == "worse"
    assert found[compare.WALL_TIME].verdict == "worse"


def test_estimated_joules_never_get_a_verdict() -> None:
    base, cand = measured("base", BASE, meter=CPU), measured("cand", FAST, meter=CPU)
    controls = compare.control(base, measured("twin", TWIN, meter=CPU))
    found = deltas(compare.compare(base, cand, controls))
    estimate = found["energy per inference (cpu-time)"]
    assert (estimate.verdict, estimate.reason) == ("not established", "energy is estimated, not measured")
    assert estimate.candidate.provenance == "estimated"
    assert found[compare.CPU_TIME].verdict == "better"


def test_estimated_and_measured_joules_are_not_set_side_by_side() -> None:
    other = replace(RAPL, provenance="estimated")
    found = deltas(compare.compare(measured("base", BASE), measured("cand", FAST, meter=other), ()))
    assert not [metric for metric in found if metric.startswith("energy")]


def test_failed_control_voids_every_verdict() -> None:
    base, cand = measured("base", BASE), measured("cand", FAST)
    controls = compare.control(base, measured("twin", noisy(0.011, 0.005, 4)))
    assert not any(control.passed for control in controls)
    for delta in compare.compare(base, cand, controls).deltas:
        if delta.metric != compare.SIZE:
            assert delta.verdict == "not established"
            assert delta.reason == "the A/A control failed: two workers on one file differ"


def test_control_that_does_not_differ_at_all_passes_and_limits_nothing() -> None:
    controls = compare.control(measured("base", [0.010] * 5), measured("twin", [0.010] * 5))
    assert controls
    assert all((c.ratio, c.ci95, c.detection_limit, c.passed) == (1.0, (1.0, 1.0), 0.0, True) for c in controls)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.45, "better"), (0.55, "not established"), (1.9, "not established"), (2.1, "worse")]
)
def test_the_detection_limit_is_a_factor_either_way(ratio: float, verdict: str) -> None:
    limit = Control("base", compare.WALL_TIME, 1.0, (0.5, 2.0), 1.0, True)
    found = compare.compare(measured("base", [0.010] * 8), measured("cand", [0.010 * ratio] * 8), [limit])
    assert deltas(found)[compare.WALL_TIME].verdict == verdict


def test_difference_below_the_detection_limit_is_not_established() -> None:
    # The candidate is 1 % faster with hardly any noise, but the twins scatter by 5 %.
    base = measured("base", [0.010] * 8)
    controls = compare.control(base, measured("twin", [0.0095, 0.0105] * 4))
    cand = measured("cand", noisy(0.0099, 0.0001, 5))
    found = deltas(compare.compare(base, cand, controls))[compare.WALL_TIME]
    assert found.ci95 is not None
    assert found.ci95[1] < 1
    assert found.verdict == "not established"
    assert found.reason.startswith("the interval reaches into the detection limit of ")


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [(2, "2 finished blocks are too few"), (1, "1 finished blocks are too few")],
)
def test_too_few_blocks(blocks: int, reason: str) -> None:
    base, cand = measured("base", BASE[:blocks]), measured("cand", FAST[:blocks])
    found = deltas(compare.compare(base, cand, compare.control(base, measured("twin", TWIN[:blocks]))))
    assert found[compare.CPU_TIME].reason == reason


def test_three_blocks_of_either_arm_are_enough() -> None:
    limit = Control("base", compare.CPU_TIME, 1.0, (0.9, 1.1), 0.1, True)
    base, cand = measured("base", BASE[:3]), measured("cand", FAST[:3])
    assert deltas(compare.compare(base, cand, [limit]))[compare.CPU_TIME].verdict == "better"
    for one, other in ((BASE, FAST[:2]), (BASE[:2], FAST)):
        found = deltas(compare.compare_apart(measured("base", one), measured("cand", other), [limit]))
        assert found[compare.CPU_TIME].reason == "2 finished blocks are too few"


def test_no_block_leaves_the_size_only() -> None:
    found = compare.compare(measured("base", []), measured("cand", []), ())
    assert [delta.metric for delta in found.deltas] == [compare.SIZE]


def test_blocks_are_paired_by_number() -> None:
    base, cand = measured("base", BASE), measured("cand", FAST)
    cand = replace(cand, trials=cand.trials[3:])
    expected = np.exp(np.mean(np.log(np.divide(FAST[3:], BASE[3:]))))
    assert deltas(compare.compare(base, cand, ()))[compare.WALL_TIME].ratio == pytest.approx(expected)


def test_missing_domain_is_left_out_rather_than_zero() -> None:
    base, cand = measured("base", BASE), measured("cand", FAST)
    lost = replace(cand.trials[2], energy_j={"rapl/package-0": 1.0})
    cand = replace(cand, trials=(*cand.trials[:2], lost, *cand.trials[3:]))
    found = deltas(compare.compare(base, cand, ()))
    assert "energy per inference (rapl)" not in found
    assert "energy per inference (rapl/dram-0)" not in found
    assert "energy per inference (rapl/package-0)" in found


def test_energy_above_idle_takes_the_idle_power_off() -> None:
    idle = {"rapl/package-0": 9.0, "rapl/core-0": 1.0, "rapl/dram-0": 1.0}
    base, cand = measured("base", BASE, idle_power_w=idle), measured("cand", FAST, idle_power_w=idle)
    found = deltas(compare.compare(base, cand, ()))["energy above idle per inference (rapl)"]
    assert found.baseline.value == pytest.approx(0.010 * (22 - 10), rel=0.02)


def test_an_estimate_has_a_total_alone_and_nothing_above_idle() -> None:
    base, cand = (measured(n, s, meter=CPU, idle_power_w={"cpu-time/cpu": 0.01}) for n, s in (("b", BASE), ("c", FAST)))
    names = deltas(compare.compare(base, cand, ())).keys()
    assert [name for name in names if name.startswith("energy")] == ["energy per inference (cpu-time)"]


def test_size_is_exact() -> None:
    small = replace(ARTIFACT, size_bytes=250)
    found = deltas(compare.compare(measured("base", BASE), measured("cand", FAST, artifact=small), ()))[compare.SIZE]
    assert (found.ratio, found.ci95, found.verdict) == (0.25, None, "better")


def test_comparable_names_the_keys_that_differ() -> None:
    base = measured("base", BASE)
    assert compare.comparable(base, measured("cand", FAST)) == ()
    # A counter's source has notes on what else is on the machine.
    assert compare.comparable(base, measured("cand", FAST, meter=replace(RAPL, source="powercap; psys again"))) == ()
    other = measured("cand", FAST, meter=CPU, plan=replace(PLAN, batch=8), environment=replace(MACHINE, cpu="another"))
    assert compare.comparable(base, other) == ("environment.cpu", "plan.batch", "meters")


def test_break_even_is_cost_over_saving() -> None:
    stages = [
        StageCost(name, 10.0, cpu_s, {f"rapl/{d}": e for d, e in zip(RAPL.domains, joules, strict=True)})
        for name, cpu_s, joules in (("prune", 7.0, (100, 90, 10)), ("int8", 5.0, (200, 110, 20)))
    ]
    cpu, energy = compare.break_even(measured("base", [0.01] * 5), measured("cand", [0.004] * 5), stages)
    assert cpu.inferences == pytest.approx(12.0 / 0.006)
    assert energy.metric == "energy (rapl)"
    assert energy.inferences == pytest.approx(330 / (0.006 * 22))
    assert energy.cost.provenance == "measured"
    # The ends of the interval are those of the saving, the other way round: the larger it is, the sooner it pays.
    (cpu, _) = compare.break_even(measured("base", [0.010, 0.011, 0.012]), measured("cand", [0.004] * 3), stages)
    low, high = (12.0 / (0.007 + sign * 4.302653 * 0.001 / 3**0.5) for sign in (1, -1))
    assert cpu.ci95 == pytest.approx((low, high))


def test_break_even_needs_costs_and_blocks_that_both_finished() -> None:
    stages = (StageCost("export", 1.0, 2.0, {}),)
    apart = measured("base", BASE), measured("cand", FAST)
    others = replace(apart[1], trials=tuple(replace(t, block=t.block + 100) for t in apart[1].trials))
    assert compare.break_even(apart[0], others, stages) == ()
    assert compare.break_even(*apart, ()) == ()
    # Joules that one stage lacks are not the cost of all of them.
    joules = {f"rapl/{domain}": 1.0 for domain in RAPL.domains}
    (cpu,) = compare.break_even(*apart, (StageCost("prune", 1.0, 2.0, joules), *stages))
    assert cpu.metric == "CPU time"


def test_break_even_is_never_established_when_nothing_is_saved() -> None:
    stages = [StageCost("int8", 10.0, 12.0, {})]
    (cpu,) = compare.break_even(measured("base", BASE), measured("cand", TWIN), stages)
    assert (cpu.inferences, cpu.reason) == (None, "the interval of the difference reaches 0")
    (cpu,) = compare.break_even(measured("base", FAST), measured("cand", BASE), stages)
    assert (cpu.inferences, cpu.reason) == (None, "an inference costs more than before")


def test_fastest_baseline_comes_first() -> None:
    slow, fast, empty = measured("slow", BASE), measured("fast", FAST), measured("empty", [])
    assert [m.arm for m in compare.fastest_first([empty, slow, fast])] == ["fast", "slow", "empty"]


@pytest.mark.parametrize("noise", [0.03, 0.10])
@pytest.mark.parametrize("blocks", [5, 10, 20])
def test_control_makes_a_false_verdict_rare(noise: float, blocks: int) -> None:
    # Simulated runs of two equal arms and a twin: how often does the whole chain claim a difference?
    draw = np.random.default_rng(blocks + round(1000 * noise))
    claims = 0
    for _ in range(500):
        times = (draw.lognormal(-4, noise, blocks).tolist() for _ in range(3))
        base, twin, cand = (measured(n, t, meters=()) for n, t in zip(("base", "twin", "cand"), times, strict=True))
        comparison = compare.compare(base, cand, compare.control(base, twin))
        claims += deltas(comparison)[compare.WALL_TIME].verdict != "not established"
    assert claims / 500 <= 0.02


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_what_no_interval_can_be_made_of_has_no_verdict(bad: float) -> None:
    """The trap: a test that raised was reported as "significant". Here the metric is absent, the others stand."""
    base, cand = measured("base", BASE), measured("cand", FAST)
    broken = replace(cand.trials[3], cpu_s=bad)
    cand = replace(cand, trials=(*cand.trials[:3], broken, *cand.trials[4:]))
    found = deltas(compare.compare(base, cand, compare.control(base, measured("twin", TWIN))))
    assert compare.CPU_TIME not in found
    assert found[compare.WALL_TIME].verdict == "better"
    assert compare.CPU_TIME not in deltas(compare.compare_apart(base, cand, ()))


def test_statistics_that_raise_give_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any) -> Any:
        raise ValueError("the test raised")

    base, cand = measured("base", BASE), measured("cand", FAST)
    monkeypatch.setattr(compare.stats, "ratio_interval", raises)
    with pytest.raises(ValueError, match="the test raised"):
        compare.compare(base, cand, ())


def test_no_interval_and_no_control_are_not_established() -> None:
    one = compare.compare(measured("base", BASE[:1]), measured("cand", FAST[:1]), ())
    assert {d.verdict for d in one.deltas if d.metric != compare.SIZE} == {"not established"}
    without = compare.compare(measured("base", BASE), measured("cand", FAST), ())
    assert {(d.verdict, d.reason) for d in without.deltas if d.metric != compare.SIZE} == {
        ("not established", "no A/A control")
    }


def test_separate_runs_are_not_paired() -> None:
    base, cand = measured("base", BASE), measured("cand", FAST[:5])
    found = deltas(compare.compare_apart(base, cand, compare.control(base, measured("twin", TWIN))))
    wall = found[compare.WALL_TIME]
    expected = np.exp(np.mean(np.log(FAST[:5])) - np.mean(np.log(BASE)))
    assert wall.ratio == pytest.approx(expected)
    assert wall.verdict == "better"


def test_stricter_takes_the_failed_control_and_else_the_larger_limit() -> None:
    base = measured("base", BASE)
    quiet = compare.control(base, measured("twin", TWIN))
    loud = compare.control(base, measured("twin", [0.0095, 0.0105] * 4))
    failed = compare.control(base, measured("twin", noisy(0.011, 0.005, 4)))
    assert compare.stricter(quiet, loud) == loud
    assert compare.stricter(loud, quiet) == loud
    assert not any(control.passed for control in compare.stricter(loud, failed))
    assert compare.stricter(quiet, ()) == ()


def test_quantities_are_means_of_what_was_read() -> None:
    found = compare.quantities(measured("base", BASE))
    assert found[compare.WALL_TIME].value == pytest.approx(np.exp(np.mean(np.log(BASE))))
    assert found["energy per inference (rapl)"].provenance == "measured"
    assert "energy per inference (rapl)" not in compare.quantities(measured("base", []))
