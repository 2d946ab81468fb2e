"""The waterfall of fictional runs of several stages."""

from dataclasses import replace

import pytest

from compressor.report.waterfall import links, waterfall_section
from compressor.results import Step


@pytest.fixture(scope="module")
def staged(reports):
    """prune, then int8 (the result), then a stage that was undone."""
    report = reports["measured"]
    arms = {m.arm: m for m in report.measurements}
    exported = Step("export", {"opset": 20})

    def stage(name, of, methods):
        steps = (exported, *(step for method in methods for step in (Step(method, {}), exported)))
        role = "candidate" if name == "ONNX int8" else "stage"
        return replace(arms[of], arm=name, role=role, artifact=replace(arms[of].artifact, steps=steps))

    made = (
        stage("ONNX prune+int8+int4", "ONNX int8", ("prune", "int8", "int4")),
        stage("ONNX prune", "ONNX fp32", ("prune",)),
        stage("ONNX int8", "ONNX int8", ("prune", "int8")),
    )
    others = tuple(m for m in report.measurements if m.role != "candidate")
    return replace(report, measurements=(*others, *made))


def test_stages_stand_in_their_order_and_the_runtime_apart(staged):
    label, steps = links(staged)
    assert label == "energy per inference, measured (rapl)"
    assert [(link.label, link.kind) for link in steps] == [
        ("PyTorch fp32", "start"),
        ("ONNX fp32", "runtime"),
        ("prune", "compression"),
        ("int8", "compression"),
        ("int4", "undone"),
    ]
    # Each against the one before it: what int8 is worth is not what pruning is worth.
    assert steps[2].ratio.value == pytest.approx(1)
    assert steps[3].ratio.value == pytest.approx(0.369, abs=1e-3)
    assert steps[4].ratio.value == pytest.approx(1)


def test_what_was_undone_is_named(staged):
    section = waterfall_section(staged)
    assert section.text[-1] == "Undone, and not in the result: int4."
    assert [row[1].text for row in section.tables[0].rows][-1] == "undone: broke the margin"
    flops = next(i for i, column in enumerate(section.tables[0].columns) if column.key == "flops")
    assert [row[flops].text for row in section.tables[0].rows] == ["not counted"] + ["25.0 MFLOP"] * 4


def test_estimates_are_replaced_by_cpu_time(reports):
    label, steps = links(reports["estimated"])
    assert label == "CPU time per inference"
    assert steps[-1].cost.unit == "s"
    assert waterfall_section(reports["estimated"]).text[-1] == "Energy was not measured, so this is CPU time."


def test_a_failed_control_is_said_first(reports):
    section = waterfall_section(reports["control failed"])
    assert section.text[0] == "The A/A control failed: these differences are not established."


def test_an_arm_without_blocks_has_no_ratio(reports):
    _, steps = links(reports["nothing measured"])
    assert steps[-1].ratio is None
    assert steps[-1].cost is None


def test_without_a_comparison_there_is_none(reports):
    assert waterfall_section(replace(reports["measured"], comparisons=())) is None
