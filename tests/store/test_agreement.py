"""Records (fictional) that were edited to disagree with themselves: each is refused, and the key is named."""

import json
from dataclasses import replace

import pytest

from compressor.errors import OutputError
from compressor.store.agreement import disagreements
from compressor.store.records import dump_report, load_report


def test_what_the_program_writes_agrees(fictional):
    for make in fictional.CASES.values():
        assert list(disagreements(make())) == []


EDITS = [
    (
        "comparisons.0.candidate",
        "ONNX int4",
        "comparisons[0].candidate names the arm 'ONNX int4', which was not measured",
    ),
    ("control.0.arm", "ghost", "control[0].arm names the arm 'ghost', which was not measured"),
    ("break_even.0.baseline", "ghost", "break_even[0].baseline names the arm 'ghost', which was not measured"),
    ("measurements.1.arm", "PyTorch fp32", "measurements[1].arm names 'PyTorch fp32', as another arm does"),
    ("measurements.0.trials.2.cpu_s", 9.0, "comparisons[1].deltas[4].baseline.value is "),
    (
        "measurements.0.trials.2.inferences",
        0,
        "measurements[0].trials[2].inferences is 0; a finished block has at least 1",
    ),
    ("measurements.0.trials.2.block", 1, "measurements[0].trials[2].block is 1, as another trial's is"),
    ("measurements.0.trials.0.energy_j.rapl/dram", -1.0, "measurements[0].trials[0].energy_j.rapl/dram is -1.0, less"),
    (
        "measurements.0.trials.0.energy_j.sun/light",
        1.0,
        "measurements[0].trials[0].energy_j holds 'sun/light', which is",
    ),
    ("measurements.3.score.value", 0.99, "measurements[3].score.value is 0.99, but its examples average to 0.9188"),
    (
        "measurements.3.artifact.size_bytes",
        10,
        "comparisons[0].deltas[6].candidate.value is 97400, but the trials give 10",
    ),
    ("comparisons.0.deltas.0.ratio", 0.1, "comparisons[0].deltas[0].ratio is 0.1, but the trials give 0.36"),
    ("comparisons.0.deltas.0.ci95", [0.1, 0.2], "comparisons[0].deltas[0].ci95 does not follow from the trials"),
    ("comparisons.0.deltas.0.baseline.value", 1.0, "comparisons[0].deltas[0].baseline.value is 1, but the trials give"),
    (
        "comparisons.0.deltas.0.metric",
        "joy",
        "comparisons[0].deltas[0].metric is 'joy', which does not follow from the",
    ),
    ("comparisons.0.deltas.0.verdict", "worse", "comparisons[0].deltas[0].verdict is 'worse' at a ratio of 0.36"),
    ("comparisons.0.score.loss", -0.5, "comparisons[0].score.loss is -0.5, but the scores give 0.0005"),
    ("comparisons.0.score.verdict", "lost", "comparisons[0].score.verdict is 'lost', but the interval and the margin"),
    ("control.0.passed", False, "control[0].passed is false, but the interval says otherwise"),
    ("control.0.ratio", 3.0, "control[0].ratio is 3, outside its own interval"),
    ("stages.0.elapsed_s", -1.0, "stages[0].elapsed_s is -1.0, less than nothing"),
    ("stages.0.cpu_s", 500.0, "break_even[0].cost does not follow from the stages"),
    ("break_even.0.inferences", 1.0, "break_even[0].inferences does not follow from the trials and the stages"),
    ("measurements.0.latency.percentiles_s", [1.0, 0.5], "measurements[0].latency.percentiles_s is not 101 rising"),
]


@pytest.mark.parametrize(("path", "value", "message"), EDITS, ids=[path for path, _, _ in EDITS])
def test_an_edit_is_found_and_named(path, value, message, fictional, tmp_path):
    raw = json.loads(dump_report(fictional.measured()))
    *way, last = path.split(".")
    place = raw
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    file = tmp_path / "report.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(OutputError) as caught:
        load_report(file)
    assert str(caught.value).startswith(f"{file}: disagrees with itself: {message}")
    assert str(caught.value).endswith("; it was edited; run again")


def test_estimated_joules_with_a_verdict_are_refused(fictional, tmp_path):
    raw = json.loads(dump_report(fictional.estimated()))
    raw["comparisons"][0]["deltas"][0]["verdict"] = "better"
    file = tmp_path / "report.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(OutputError, match=r"comparisons\[0\].deltas\[0\].verdict is 'better' for estimated joules"):
        load_report(file)


def test_estimated_joules_called_measured_are_refused(fictional, tmp_path):
    raw = json.loads(dump_report(fictional.estimated()))
    raw["comparisons"][0]["deltas"][0]["candidate"]["provenance"] = "measured"
    file = tmp_path / "report.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(OutputError, match=r"candidate.provenance is measured, but the meter's is estimated"):
        load_report(file)


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        ({"baseline": "nobody"}, "confusion.baseline", "names the arm 'nobody', which was not measured"),
        ({"broken": 6}, "confusion.broken", "is 6, but the classes add up to another number"),
        ({"mended": 9}, "confusion.mended", "is 9, but the classes add up to 1"),
    ],
)
def test_a_confusion_that_does_not_add_up_is_named(change, key, what, fictional):
    report = fictional.measured()
    told = replace(report, confusion=replace(report.confusion, **change))
    assert (key, what) in list(disagreements(told))


def test_a_class_that_counts_too_many_and_a_picture_that_is_none_are_named(fictional):
    report = fictional.measured()
    classes = (replace(report.confusion.classes[0], right_after=2000), *report.confusion.classes[1:])
    flips = (replace(report.confusion.flips[0], picture='"><script>'),)
    found = dict(disagreements(replace(report, confusion=replace(report.confusion, classes=classes, flips=flips))))
    assert found["confusion.classes[0]"] == "counts more examples than it has"
    assert found["confusion.flips[0].picture"] == "is not base64"


def test_a_use_that_cannot_be_is_named(fictional):
    report = fictional.measured()
    found = dict(disagreements(replace(report, usage=replace(report.usage, pue=0.1, country="nowhere"))))
    assert found["usage.pue"] == "is 0.1; a building draws at least what its computers do, so 1 or more"
    assert found["usage.country"].startswith("is 'nowhere', which the table of carbon intensities does not have")
