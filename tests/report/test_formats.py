"""Every format of the doctored reports (fictional data): honest, harmless, and in agreement with the record."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
import yaml

from compressor.errors import OutputError, RecipeError
from compressor.report import numbers, pdf
from compressor.report.formats import FORMATS, find_format
from compressor.report.lifecycle import life
from compressor.report.metrics import metrics_section
from compressor.report.use import energy_of, label, sci
from compressor.results import MeterInfo, Usage

TEXTS = [name for name in FORMATS if name != "pdf"]
CASES = [
    "estimated", "measured", "control failed", "across one", "missing domain", "mixed", "worse", "nothing measured",
    "synthetic", "no task",
]  # fmt: skip


def plain(text):
    """Words of any format on one line, without its escapes."""
    text = re.sub(r"<[^>]+>", " ", text) if "<html" in text else re.sub(r"\\(.)", r"\1", text)
    return " ".join(text.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">").replace("\n> ", " ").split())


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_and_the_warnings_are_in_every_format(case, reports, pages):
    report = reports[case]
    for name in TEXTS:
        if name == "csv":
            continue
        text = plain(pages[case] if name == "html" else FORMATS[name].render(report))
        assert report.headline in text, name
        for warning in report.warnings:
            assert warning[:150] in text, name


@pytest.mark.parametrize(
    ("case", "verdict", "source"),
    [
        ("estimated", "better", "estimated"),
        ("measured", "better", "measured"),
        ("control failed", "void", "measured"),
        ("across one", "not established", "measured"),
        ("worse", "worse", "measured"),
        ("nothing measured", "not measured", ""),
    ],
)
def test_the_table_of_arms_says_the_verdict_and_where_the_joules_are_from(case, verdict, source, reports):
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].render(reports[case]))))
    assert [row["arm"] for row in rows] == [m.arm for m in reports[case].measurements]
    candidate = next(row for row in rows if row["role"] == "candidate")
    assert candidate["verdict"] == verdict
    assert candidate["energy_provenance"] == source
    assert (candidate["verdict_metric"] == "CPU time per inference") == (case in ("estimated",))
    assert (candidate["energy_j"] == "") == (source == "")


def test_the_table_of_arms_holds_the_record_s_own_numbers(reports):
    report = reports["measured"]
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].render(report))))
    row = next(row for row in rows if row["role"] == "candidate")
    delta = next(d for d in report.comparisons[0].deltas if d.metric == "energy per inference (rapl)")
    assert float(row["energy_j"]) == delta.candidate.value
    assert (float(row["energy_j_low"]), float(row["energy_j_high"])) == delta.candidate.ci95
    assert int(row["macs"]) == 12_500_000


def test_arithmetic_says_for_which_inputs_it_was_counted(reports):
    report = reports["measured"]
    shapes = ((32,), (32,), (2, 0, 8))  # a cache is empty
    counted = [replace(m, artifact=replace(m.artifact, macs=1000, macs_shapes=shapes)) for m in report.measurements]
    section = metrics_section(replace(report, measurements=tuple(counted)))
    notes = {cell.note for table in section.tables for row in table.rows for cell in row}
    assert f"{numbers.count(1000)} MACs, inputs of 32" in notes


@pytest.mark.parametrize("case", CASES)
def test_sci_html_and_markdown_agree_to_the_digit(case, reports, pages):
    report = reports[case]
    record = json.loads(FORMATS["sci"].render(report))
    html, markdown = plain(pages[case]), plain(FORMATS["md"].render(report))
    arms = {arm["arm"]: arm for arm in record["arms"]}
    shown = [report.comparisons[0].baseline, report.comparisons[0].candidate]
    for m in report.measurements:
        if m.arm not in shown:
            continue
        for q, key in ((energy_of(report, m), "E"), (sci(report, m), "SCI")):
            found = arms[m.arm][key]
            assert (q is None) == (found is None or found["value"] is None)
            if q is not None:
                assert found["value"] == q.value
                assert found["provenance"] == q.provenance
                value, _, interval = found["shown"].partition(" [")
                assert value in html
                assert value in markdown
                assert interval in html
                assert interval in markdown


def test_sci_shows_its_terms_and_follows_from_them(reports):
    record = json.loads(FORMATS["sci"].render(reports["measured"]))
    arm = next(a for a in record["arms"] if a["role"] == "candidate")
    joules, grams = arm["E"]["value"], record["I"]["value"]
    assert record["R"] == {"value": 1, "unit": "inference"}
    assert record["I"]["year"] == 2024
    assert record["M"]["value"] == 1000.0 / 10_000_000
    assert arm["SCI"]["value"] == pytest.approx(joules / 3.6e6 * 1.2 * grams + record["M"]["value"], rel=1e-12)
    assert arm["O"]["value"] == pytest.approx(joules / 3.6e6 * 1.2 * grams, rel=1e-12)


def test_without_a_country_there_is_no_carbon_anywhere(reports):
    report = replace(reports["measured"], usage=None)
    record = json.loads(FORMATS["sci"].render(report))
    assert record["I"] is None
    assert record["why_no_score"] == "no carbon: neither a country nor a carbon intensity was given"
    assert all(arm["SCI"] is None for arm in record["arms"])
    front = yaml.safe_load(FORMATS["card"].render(report).split("---\n")[1])
    assert "co2_eq_emissions" not in front
    card = plain(FORMATS["card"].render(report))
    assert "co2_eq_emissions is not filled in: neither a country nor a carbon intensity was given." in card
    assert "g CO₂e " not in plain(FORMATS["md"].render(report))


def test_the_card_s_front_matter_follows_from_the_record(reports):
    report = reports["measured"]
    front = yaml.safe_load(FORMATS["card"].render(report).split("---\n")[1])
    joules = sum(stage.energy_j["rapl/package-0"] for stage in report.stages)
    grams = (joules / 3.6e6 + 0.5) * 1.2 * 344
    assert front["co2_eq_emissions"]["emissions"] == pytest.approx(grams, rel=5e-3)
    assert front["co2_eq_emissions"]["training_type"] == "compression without training"
    assert front["co2_eq_emissions"]["geographical_location"] == "Germany"
    assert "training as stated by the user, compressing measured by rapl" in front["co2_eq_emissions"]["source"]
    [entry] = front["model-index"]
    [result] = entry["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0] == {"type": "accuracy", "name": "accuracy", "value": 0.9188}
    kinds = [metric["type"] for metric in result["metrics"]]
    assert kinds == ["accuracy", "cpu_time_per_inference_s", "energy_per_inference_j_measured"]


def test_the_card_has_the_digits_and_the_library_of_the_result(reports):
    report = reports["measured"]
    front = yaml.safe_load(FORMATS["card"].render(report).split("---\n")[1])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    # 373 µs [357, 390] and 5.2 mJ [5.0, 5.5]
    assert [metric["value"] for metric in metrics[1:]] == [0.000373, 0.0052]
    assert front["library_name"] == "onnx"
    arms = tuple(
        replace(m, artifact=replace(m.artifact, format="torchao")) if m.role == "candidate" else m
        for m in report.measurements
    )
    front = yaml.safe_load(FORMATS["card"].render(replace(report, measurements=arms)).split("---\n")[1])
    assert (front["library_name"], front["tags"][1]) == ("pytorch", "pytorch")


def test_the_card_calls_estimates_estimates(reports):
    text = FORMATS["card"].render(reports["estimated"])
    front = yaml.safe_load(text.split("---\n")[1])
    assert "compressing estimated by cpu-time" in front["co2_eq_emissions"]["source"]
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert metrics[-1]["type"] == "energy_per_inference_j_estimated"
    assert "Energy label: none (energy was estimated, not measured)." in plain(text)


@pytest.mark.parametrize(
    ("case", "status"), [("measured", "known (measured)"), ("estimated", "estimated"), ("nothing measured", "unknown")]
)
def test_annex_xi_says_known_estimated_stated_or_unknown(case, status, reports):
    text = plain(FORMATS["annex"].render(reports[case]))
    assert re.search(rf"\| 2 \(e\) \| Energy per inference, ONNX int8 \| [^|]+ \| {re.escape(status)} \|", text)
    stated = replace(reports[case], usage=Usage(training_kwh=2.0))
    text = plain(FORMATS["annex"].render(stated))
    assert "| 2 (e) | Energy of training | 2.00 kWh | stated by the user |" in text
    none = plain(FORMATS["annex"].render(replace(reports[case], usage=None)))
    assert "| 2 (e) | Energy of training | not given: the provider has to add it | unknown |" in none


@pytest.mark.parametrize(
    ("case", "letter", "why"),
    [
        # 0.369 [0.350, 0.389]: the pessimistic end decides.
        ("measured", "C", ""),
        ("worse", "G", ""),
        ("across one", "G", ""),
        ("estimated", "", "energy was estimated, not measured"),
        ("synthetic", "", "energy was estimated, not measured"),
        ("control failed", "", "the A/A control failed"),
        ("mixed", "", "no energy of both arms"),
        ("nothing measured", "", "no energy of both arms"),
    ],
)
def test_the_label_is_for_measured_ratios_alone(case, letter, why, reports):
    assert label(reports[case]) == (letter, why)


def test_a_recording_gets_no_label(reports):
    report = reports["measured"]
    told = [
        replace(d, **{arm: replace(getattr(d, arm), provenance="replayed") for arm in ("baseline", "candidate")})
        for d in report.comparisons[0].deltas
        if d.baseline.provenance
    ]
    comparison = replace(report.comparisons[0], deltas=tuple(told))
    assert label(replace(report, comparisons=(comparison,))) == ("", "energy was replayed, not measured")


def test_life_cycle_never_adds_stated_training_to_cpu_time(reports):
    assert life(reports["measured"]).training == 0.5 * 3.6e6
    found = life(reports["estimated"])
    assert (found.metric, found.training) == ("CPU time", 0.0)
    text = plain(FORMATS["md"].render(reports["estimated"]))
    assert "Training is stated as 500 Wh; it is left out here, as a stated energy is not added to a CPU time." in text


def test_metrics_of_estimates_are_marked_in_every_cell(reports):
    rows = {row[0].text: row for row in metrics_section(reports["estimated"]).tables[0].rows}
    for name in ("Energy per inference", "EDP", "Energy-precision ratio", "Operational carbon", "SCI"):
        assert all(cell.tone == "estimated" and "estimated" in cell.note for cell in rows[name][1:]), name
    # What was counted and timed is not.
    assert all(cell.tone == "plain" for cell in rows["CPU utilisation"][1:])
    assert [cell.text for cell in rows["Arithmetic"][1:]] == ["25.0 MFLOP", "25.0 MFLOP"]


def test_gpu_utilisation_is_shown_beside_that_of_the_cpu_or_why_it_is_not(reports):
    """Invented figures; the reason is the meter's, as it stands in its source."""
    report = reports["measured"]
    nvml = MeterInfo("nvml", ("gpu-0",), "measured", "device", 0.1, 7.0, "x; utilisation of gpu-0 not read: no right")

    def on_gpu(m, **more):
        return replace(m, runtime=replace(m.runtime, device="cuda:0"), **more)

    def row(*, told, meters):
        found = tuple(
            on_gpu(
                m,
                meters=m.meters + meters,
                trials=tuple(
                    replace(t, utilisation={"nvml/gpu-0": 0.55, "nvml/gpu-1": 0.01} if told else {}) for t in m.trials
                ),
            )
            for m in report.measurements
        )
        rows = metrics_section(replace(report, measurements=found)).tables[0].rows
        return next(r for r in rows if r[0].text == "GPU utilisation")[1]

    told = row(told=True, meters=(nvml,))
    assert (told.text, told.note) == ("55.0 %", "[55.0, 55.0] of the time, nvml/gpu-0")
    assert (row(told=False, meters=()).text, row(told=False, meters=()).note) == ("not read", "needs the meter nvml")
    assert row(told=False, meters=(nvml,)).note == "utilisation of gpu-0 not read: no right"
    assert "GPU utilisation" not in {r[0].text for r in metrics_section(report).tables[0].rows}


def test_data_efficiency_is_shown_where_it_was_given(reports):
    report = replace(reports["measured"], usage=Usage(data_efficiency=((1.0, 0.92), (0.1, 0.85))))
    text = plain(FORMATS["md"].render(report))
    assert "| 10 % | 85.0 % | | 100 % | 92.0 % |" in text
    assert "Data efficiency" not in FORMATS["md"].render(reports["measured"])


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_text_harms_no_format(name, hostile, pages):
    text = pages["hostile"] if name == "html" else FORMATS[name].render(hostile)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "x" * 2100 not in text
    assert len(text) < 500_000
    if name == "csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert {len(row) for row in rows} == {len(rows[0])}
        # A spreadsheet takes these for formulas.
        assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
        assert any(cell.startswith("'=cmd") for row in rows for cell in row)
    elif name == "sci":
        assert json.loads(text)["arms"]
    elif name in ("card", "annex", "md"):
        # The front matter and the command's fence take text as it is; in the prose no tag is open.
        prose = text.split("---\n", 2)[2] if name == "card" else re.sub(r"(?ms)^`{3,}text\n.*?^`{3,}$", "", text)
        assert not re.search(r"(?<!\\)<(?!/?details>|/?summary>)", prose)
        for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_hostile_text_stays_inside_the_card_s_yaml(hostile):
    text = FORMATS["card"].render(hostile)
    front = yaml.safe_load(text.split("---\n")[1])
    assert set(front) == {"library_name", "tags", "metrics", "co2_eq_emissions", "model-index"}
    assert front["model-index"][0]["name"].startswith("=cmd|' /C calc'!A0 <script>")


def test_a_newline_in_a_name_cannot_end_the_front_matter(reports):
    report = replace(reports["measured"], model=replace(reports["measured"].model, name="m\n---\n# owned: true"))
    text = FORMATS["card"].render(report)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["model-index"][0]["name"] == "m --- # owned: true"
    assert "owned" not in front


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(RecipeError) as caught:
        find_format("htm")
    assert str(caught.value) == (
        "--format: there is no format 'htm'; did you mean 'html'? "
        "known: annex, card, csv, html, json, md, pdf, sci, txt"
    )


def test_without_chromium_pdf_is_one_clear_line(reports, monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(OutputError) as caught:
        pdf.render_pdf(reports["measured"])
    assert str(caught.value) == (
        "pdf: needs Chromium or Chrome, and none is on the path; "
        "install chromium, or open report.html and print it from any browser"
    )


def test_a_browser_that_prints_nothing_is_one_clear_line(reports, pages, monkeypatch, tmp_path):
    # A stand-in that fails as a browser without rights does; the real one is tried below where it is installed.
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho 'no usable sandbox' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(pdf, "find_browser", lambda: str(fake))
    monkeypatch.setattr(pdf, "render_html", lambda report: pages["measured"])
    with pytest.raises(OutputError) as caught:
        pdf.render_pdf(reports["measured"])
    assert str(caught.value) == "pdf: chromium did not print (no usable sandbox); print report.html instead"


@pytest.mark.skipif(pdf.find_browser() is None, reason="not run: there is no Chromium on this machine")
def test_chromium_prints_even_hostile_text(hostile, pages, monkeypatch):
    monkeypatch.setattr(pdf, "render_html", lambda report: pages["hostile"])
    printed = pdf.render_pdf(hostile)
    assert printed.startswith(b"%PDF-")
    assert b"/JavaScript" not in printed
