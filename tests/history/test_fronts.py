"""Only what may be compared is ranked, and the front is who no other beats."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.history.database import Entry
from compressor.history.fronts import fronts
from compressor.history.rows import ArmRow, Mean, RunRow, rows_of

CPU_TIME = "CPU time per inference"
ENERGY = "energy per inference, measured (rapl)"


def arms(*reports):
    found = []
    for number, report in enumerate(reports):
        run, rows = rows_of(report, f"{number:064x}", None)
        found += [Entry(run, arm, None) for arm in rows]
    return found


def only(found, cost):
    (front,) = [f for f in found if f.group.cost == cost and f.group.runtime == "onnxruntime"]
    return front


def test_the_front_is_who_no_other_beats(variant):
    front = only(
        fronts(arms(variant(1, 0.37, 9188), variant(2, 0.2, 8900), variant(3, 0.9, 9240), variant(4, 0.5, 9100))),
        ENERGY,
    )
    assert [p.score.value for p in front.best] == [0.89, 0.9188, 0.924]
    # The four, and the fp32 original that all four runs measured, once.
    assert len(front.points) == 5
    assert [p.cost.value for p in front.points] == sorted(p.cost.value for p in front.points)


def test_the_cheapest_at_a_required_score(variant):
    front = only(fronts(arms(variant(1, 0.37, 9188), variant(2, 0.2, 8900))), ENERGY)
    assert front.cheapest(0.5).score.value == 0.89
    assert front.cheapest(0.89).score.value == 0.89
    assert front.cheapest(0.9).score.value == 0.9188
    assert front.cheapest(0.99) is None


def test_where_less_is_better_the_required_score_is_a_most(variant):
    found = []
    for entry in arms(variant(1, 0.37, 9188), variant(2, 0.2, 8900)):
        error = Mean(1 - entry.arm.score.value, None)
        found.append(replace(entry, arm=replace(entry.arm, score=error, higher_is_better=False)))
    front = only(fronts(found), ENERGY)
    assert [round(p.score.value, 4) for p in front.best][:2] == [0.11, 0.0812]
    assert round(front.cheapest(0.1).score.value, 4) == 0.0812
    assert front.cheapest(0.01) is None


def test_estimated_joules_make_no_front(variant):
    found = fronts(arms(variant(1, 0.37, 9188, measured=False), variant(2, 0.2, 8900, measured=False)))
    assert {f.group.cost for f in found} == {CPU_TIME}


def test_measured_and_estimated_models_meet_on_cpu_time_only(variant):
    found = fronts(arms(variant(1, 0.37, 9188), variant(2, 0.2, 8900, measured=False)))
    assert len(only(found, ENERGY).points) == 2  # the measured one and its original
    assert len(only(found, CPU_TIME).points) == 3


def test_nothing_is_ranked_across_what_differs(variant):
    base = arms(variant(1, 0.37, 9188), variant(2, 0.2, 8900))
    count = len(fronts(base))
    ways = (
        lambda e: replace(e, arm=replace(e.arm, machine="another")),
        lambda e: replace(e, arm=replace(e.arm, runtime="openvino")),
        lambda e: replace(e, arm=replace(e.arm, device="cuda")),
        lambda e: replace(e, arm=replace(e.arm, batch=1)),
        lambda e: replace(e, arm=replace(e.arm, threads=8)),
        lambda e: replace(e, arm=replace(e.arm, meter="nvml")),
        lambda e: replace(e, arm=replace(e.arm, workload="prefill of 16 tokens")),
        lambda e: replace(e, run=replace(e.run, data="other examples")),
        lambda e: replace(e, run=replace(e.run, metric="f1")),
        lambda e: replace(e, run=replace(e.run, synthetic=True)),
    )
    for change in ways:
        last = [change(e) if e.run.digest.endswith("1") else e for e in base]
        assert len(fronts(last)) > count


def test_a_model_measured_again_counts_once_and_the_newest_counts(variant):
    newest, older = variant(1, 0.3, 9188), variant(1, 0.37, 9188)
    front = only(fronts(arms(newest, older)), ENERGY)
    assert len(front.points) == 2
    assert front.points[0].entry.run.digest.endswith("0")


def test_what_has_no_score_or_no_cost_is_in_no_front(fictional):
    assert fronts(arms(fictional.no_task())) == []
    assert all(p.entry.arm.role == "baseline" for f in fronts(arms(fictional.nothing_measured())) for p in f.points)


RUN = RunRow(
    "", "bench", "", "", "m", "t", "t", "accuracy", False, "", *([None] * 5), folder=None, command=""
)  # fmt: skip
ARM = dict.fromkeys(ArmRow.__dataclass_fields__) | {
    "role": "candidate",
    "device": "cpu",
    "workload": "",
    "score_unit": "fraction",
    "higher_is_better": True,
    "batch": 1,
    "threads": 1,
    "size_bytes": 1,
}


def test_the_cpu_s_time_ranks_nothing_that_ran_on_a_gpu():
    arm = ArmRow(**ARM | {"score": Mean(0.9, None), "cpu_s": Mean(1e-3, None), "device": "cuda:0"})
    assert fronts([Entry(RUN, arm, None)]) == []
    joules = replace(arm, energy_j=Mean(1e-3, None), provenance="measured", meter="nvml")
    assert [f.group.cost for f in fronts([Entry(RUN, joules, None)])] == ["energy per inference, measured (nvml)"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1e-6, 1)), min_size=1, max_size=30))
def test_every_model_is_on_the_front_or_beaten_by_one_that_is(pairs):
    entries = [
        Entry(RUN, ArmRow(**ARM | {"artifact_sha256": str(i), "score": Mean(s, None), "cpu_s": Mean(c, None)}), None)
        for i, (s, c) in enumerate(pairs)
    ]
    (front,) = fronts(entries)
    best = [(p.score.value, p.cost.value) for p in front.best]
    assert best == sorted(best)
    for score, cost in pairs:
        assert any(s >= score and c <= cost for s, c in best)
    for score, cost in best:
        assert not any((s >= score and c < cost) or (s > score and c <= cost) for s, c in pairs)
