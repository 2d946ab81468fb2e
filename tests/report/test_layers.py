from dataclasses import replace

from compressor.report.layers import sensitivity_figure, sensitivity_section
from compressor.results import SensitivityRow


def with_layers(report, rows):
    changed = tuple(
        replace(m, artifact=replace(m.artifact, steps=(replace(m.artifact.steps[-1], sensitivity=tuple(rows)),)))
        if m.role == "candidate"
        else m
        for m in report.measurements
    )
    return replace(report, measurements=changed)


def test_the_most_sensitive_layer_stands_first_and_what_is_not_known_is_said(reports):
    section = sensitivity_section(reports["measured"])
    assert [[cell.text for cell in row] for row in section.tables[0].rows] == [
        ["head/Gemm", "Gemm", "0.21", "not measured", "fp32"],
        ["layer2/Conv", "Conv", "0.034", "1.06", "fp32"],
        ["layer1/Conv", "Conv", "0.011", "0.81", "low precision"],
        ["stem/Conv", "Conv", "0.002", "0.97", "low precision"],
    ]
    assert section.text[0].startswith("ONNX int8: 2 of 4 quantizable layers are in low precision.")


def test_a_thousand_layers_are_folded_up(reports):
    rows = [SensitivityRow(f"l{i}", "Conv", 0.001 * i, 0.5 + i / 2000, True) for i in range(1000)]
    report = with_layers(reports["measured"], rows)
    section = sensitivity_section(report)
    assert len(section.tables[0].rows) == 40
    assert section.details[0].summary == "The other 960 layers"
    assert len(sensitivity_figure(report).svg) < 300_000


def test_where_no_layer_was_looked_at_there_is_neither_table_nor_plot(reports):
    report = with_layers(reports["measured"], [])
    assert sensitivity_section(report) is None
    assert sensitivity_figure(report) is None
    unknown = with_layers(reports["measured"], [SensitivityRow("a", "Conv", None, 0.9, True)])
    assert sensitivity_section(unknown) is not None
    assert sensitivity_figure(unknown) is None
