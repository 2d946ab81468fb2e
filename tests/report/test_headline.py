"""The one sentence and the warnings say the right thing of every doctored report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compressor.report.headline import at_chance, headline, warnings_of
from compressor.results import KernelCounts, Report, Step


@pytest.mark.parametrize(
    ("case", "start", "holds"),
    [
        ("estimated", "", "energy was not measured here"),
        ("measured", "", "less"),
        ("measured", "", "energy per inference than ONNX fp32, measured by rapl"),
        ("control failed", "No saving established: ", "the A/A control failed"),
        ("across one", "No saving established: ", "the interval holds 1"),
        ("worse", "Costs more: ", "× as much [5.3, 5.9] energy per inference as ONNX fp32, measured by rapl"),
        ("worse", "Costs more: ", "accuracy 91.9 % → 87.0 %, lost more than 1 point"),
        ("nothing measured", "No saving established against ", "no block was finished by both"),
        ("synthetic", "", "agreement on synthetic inputs"),
    ],
)
def test_headline_of_doctored_reports(case: str, start: str, holds: str, reports: dict[str, Report]) -> None:
    said = headline(reports[case])
    assert said.startswith(start)
    assert holds in said


def test_estimate_is_never_called_a_saving_of_energy(reports: dict[str, Report]) -> None:
    said = headline(reports["estimated"])
    assert "energy per inference" not in said
    assert "CPU time per inference" in said


def test_method_that_does_not_pay_says_so_first(reports: dict[str, Report]) -> None:
    report = reports["measured"]
    candidate = report.comparisons[0].candidate
    kept = Step("int8", {"kept_fp32": True}, ("int8 does not pay anywhere on this CPU: kept fp32",))
    measurements = tuple(
        replace(m, artifact=replace(m.artifact, steps=(kept,))) if m.arm == candidate else m
        for m in report.measurements
    )
    said = headline(replace(report, measurements=measurements))
    assert said.startswith("Kept in fp32: int8 does not pay anywhere in this model on ")


def test_a_precision_that_the_cpu_emulates_is_a_warning(reports: dict[str, Report]) -> None:
    report = reports["measured"]
    note = "This CPU has no bfloat16 instructions: PyTorch emulates them; expect it to be slower."
    step = Step("bf16", {"emulated": True}, (note, "bf16: 3 of 3 compute ops."))
    measurements = tuple(
        replace(m, artifact=replace(m.artifact, steps=(step,))) if m.role == "candidate" else m
        for m in report.measurements
    )
    assert note in warnings_of(replace(report, measurements=measurements))
    assert note not in warnings_of(report)


def test_warnings_name_what_voids_a_number(reports: dict[str, Report]) -> None:
    assert warnings_of(reports["control failed"])[0].startswith("The A/A control failed on ")
    assert any("only estimated" in line for line in warnings_of(reports["estimated"]))
    # Where one arm was measured by the same meter, the headline says why they are not compared.
    assert not any("only estimated" in line for line in warnings_of(reports["mixed"]))
    assert "ONNX int8: accuracy is worse by more than 1 point." in warnings_of(reports["worse"])
    assert any("synthetic inputs" in line for line in warnings_of(reports["synthetic"]))
    assert any("costs more than" in line for line in warnings_of(reports["worse"]))


@pytest.mark.parametrize(
    ("role", "low", "said"),
    [
        ("candidate", 7, ["3 of 10 compute ops of {arm} stay in fp32."]),
        ("candidate", 9, ["1 of 10 compute ops of {arm} stays in fp32."]),
        ("candidate", 10, []),
        ("candidate", 0, []),
        ("baseline", 7, []),
    ],
)
def test_what_stays_in_fp32_is_counted_for_the_candidate(
    role: str, low: int, said: list[str], reports: dict[str, Report]
) -> None:
    report = reports["measured"]
    of = next(m.arm for m in report.measurements if m.role == role)
    counts = KernelCounts(10, low, "int8", {}, {})
    measurements = tuple(replace(m, kernels=counts if m.arm == of else None) for m in report.measurements)
    found = [line for line in warnings_of(replace(report, measurements=measurements)) if " in fp32." in line]
    assert found == [line.format(arm=of) for line in said]


def test_a_busy_machine_is_told(reports: dict[str, Report]) -> None:
    report = reports["measured"]
    first, *others = report.measurements
    busy = replace(first, environment=replace(first.environment, foreign_load=0.5))
    said = "Other processes kept 50 % of the cores busy before the run."
    assert said in warnings_of(replace(report, measurements=(busy, *others)))
    assert said not in warnings_of(report)


def test_original_that_knows_nothing_is_told(reports: dict[str, Report]) -> None:
    found = reports["estimated"].confusion
    assert found is not None
    assert at_chance(found) == at_chance(None) == ()
    lost = replace(found, classes=tuple(replace(one, right_before=100) for one in found.classes))
    assert at_chance(lost) == (
        "The original itself is right on 10 % of the test examples, no better than always answering 'class 0': see "
        "that labels and preprocessing are those of its training.",
    )
