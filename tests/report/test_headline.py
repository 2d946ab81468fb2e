"""The one sentence and the warnings say the right thing of every doctored report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compressor.report.headline import headline, warnings_of
from compressor.results import Report, Step


@pytest.mark.parametrize(
    ("case", "start", "holds"),
    [
        ("estimated", "", "energy was not measured here"),
        ("measured", "", "less"),
        ("measured", "", "energy per inference than ONNX fp32, measured by rapl"),
        ("control failed", "No saving established: ", "the A/A control failed"),
        ("across one", "No saving established: ", "the interval holds 1"),
        ("worse", "Costs more: ", "measured by rapl"),
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


def test_warnings_name_what_voids_a_number(reports: dict[str, Report]) -> None:
    assert warnings_of(reports["control failed"])[0].startswith("The A/A control failed on ")
    assert any("only estimated" in line for line in warnings_of(reports["estimated"]))
    assert any("synthetic inputs" in line for line in warnings_of(reports["synthetic"]))
    assert any("costs more than" in line for line in warnings_of(reports["worse"]))
