"""What the first screen says of doctored measurements (fictional data), in every format."""

import re
from html.parser import HTMLParser

import pytest

from compressor.report.markdown import render_markdown
from compressor.report.terminal import render_terminal
from compressor.report.view import view

FIRST_SCREEN = {
    "estimated": ("Energy: estimated, not measured (cpu-time)", "CPU time per inference: less, established"),
    "measured": ("Energy: measured (rapl, package)", "Energy per inference: less, established", "control: passed"),
    "control failed": ("A/A control: FAILED, verdicts void", "Energy per inference: void"),
    "across one": ("Energy per inference: saving not established",),
    "missing domain": ("Energy: measured (rapl, package)", "rapl/dram gave no reading in any arm: it is left out"),
    "mixed": (
        "Energy: measured in one arm, estimated in the other: not comparable",
        "energy is not comparable: measured in one arm, estimated in the other",
    ),
    "worse": ("Energy per inference: MORE, established", "Accuracy: lost"),
    "nothing measured": ("Nothing measured: ONNX int8: no finished block",),
    "synthetic": ("Agreement with the original, synthetic inputs: retained within 1 point",),
    "no task": ("Score: none: no task was given",),
}


class Words(HTMLParser):
    """The text of a page in one line, and its tags."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.skip = [], [], 0
        self.feed(page)
        self.close()
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skip += tag in ("style", "svg")

    def handle_endtag(self, tag):
        self.skip -= tag in ("style", "svg")
        self.words.append(" " if tag not in ("b", "span") else "")

    def handle_data(self, data):
        if not self.skip:
            self.words.append(data)


def unescaped(markdown):
    return re.sub(r"\\(.)", r"\1", markdown).replace("**", "")


def shown(report, page):
    """The first screen of the three formats, as plain words on one line."""
    html = Words(page).text.split("Arms side by side")[0]
    markdown = " ".join(unescaped(render_markdown(report)).split("## Arms")[0].split())
    terminal = " ".join(render_terminal(report).split("\n\n")[0].split())
    return {"html": html, "markdown": markdown, "terminal": terminal}


@pytest.mark.parametrize("case", FIRST_SCREEN)
def test_the_first_screen_says_what_is_so(case, reports, pages):
    report = reports[case]
    for name, text in shown(report, pages[case]).items():
        assert report.headline in text, name
        for warning in report.warnings:
            assert warning[:200] in text, name
        for words in FIRST_SCREEN[case]:
            # In HTML the label is set in bold, without the colon.
            label, _, rest = words.partition(": ")
            assert words in text or (name == "html" and f"{label} {rest}" in text), name


@pytest.mark.parametrize("case", ["estimated", "synthetic", "no task"])
def test_estimated_joules_get_no_verdict_and_are_never_called_measured(case, reports, pages):
    report = reports[case]
    v = view(report)
    rows = [row for s in v.comparisons for t in s.tables for row in t.rows if row[0].text.startswith("Energy")]
    assert rows
    assert all(row[-1].text == "estimated, no verdict" and "estimated" in row[0].text for row in rows)
    assert next(c for c in v.arms.columns if c.key == "energy").note == "estimated, cpu-time"
    for text in (pages[case], render_markdown(report), render_terminal(report)):
        assert "energy per inference, measured" not in text.lower()
        assert not re.search(r"(?<!not )measured \((?!0)cpu-time", text)
    # Estimated joules are on no axis: CPU time, which was measured, stands for them.
    axes = re.findall(r"<text[^>]*>([^<]*)", pages[case])
    assert "CPU time per inference, ms" in axes
    assert not [text for text in axes if "energy" in text.lower()]


def test_a_failed_control_voids_every_sampled_verdict(reports):
    v = view(reports["control failed"])
    verdicts = {row[0].text: row[-1].text for s in v.comparisons for t in s.tables for row in t.rows}
    assert {name: word for name, word in verdicts.items() if name not in ("Size", "Accuracy")} == {
        name: "void" for name in verdicts if name not in ("Size", "Accuracy")
    }
    assert len(verdicts) > 4
    assert verdicts["Size"] == "better"
    assert all(k.verdict == "void" for k in v.key_figures if k.label not in ("Size", "Accuracy"))


def test_a_missing_domain_is_absent_and_named(reports, pages):
    section = next(s for s in view(reports["missing domain"]).sections if s.key == "energy")
    assert "ONNX int8, rapl/dram: not read." in section.details[0].lines
    rows = [row for t in section.tables for row in t.rows if row[1].text == "rapl/dram"]
    assert rows
    assert all(row[3].text == "not read" for row in rows)
    assert not re.search(r"(?<![\d.])0(\.0+)? [mµn]?J", pages["missing domain"])


def test_mixed_provenance_is_said_cell_by_cell_and_has_no_verdict(reports):
    v = view(reports["mixed"])
    at = next(i for i, c in enumerate(v.arms.columns) if c.key == "energy")
    by_arm = {row[0].text: row[at].text for row in v.arms.rows}
    assert by_arm["ONNX int8"].endswith("mJ estimated")
    assert by_arm["ONNX fp32"].endswith("mJ measured")
    assert not any(row[0].text.startswith("Energy") for s in v.comparisons for t in s.tables for row in t.rows)


def test_an_arm_without_blocks_shows_its_reason_instead_of_a_number(reports):
    v = view(reports["nothing measured"])
    row = next(row for row in v.arms.rows if row[0].text == "ONNX int8")
    cells = {c.key: cell.text for c, cell in zip(v.arms.columns, row, strict=True)}
    assert cells["energy"] == cells["cpu"] == cells["throughput"] == "no finished block"
    assert cells["p50"] == "not timed"
    section = next(s for s in v.sections if s.key == "protocol")
    assert section.details[0].lines[0] == "block 0, ONNX int8: the worker died"


def test_runtime_and_compression_are_kept_apart(reports):
    v = view(reports["measured"])
    assert [s.title for s in v.comparisons] == [
        "Compression alone: ONNX int8 against ONNX fp32",
        "Runtime and compression together: ONNX int8 against PyTorch fp32",
    ]
    assert v.runtime_alone.startswith(
        "ONNX Runtime alone, before any compression, in CPU time per inference: 56.0 % less ["
    )
    assert v.against == "Compression alone: ONNX int8 against ONNX fp32"


@pytest.mark.parametrize("case", FIRST_SCREEN)
def test_html_markdown_and_terminal_agree_to_the_digit(case, reports, pages):
    report = reports[case]
    v = view(report)
    html = Words(pages[case]).text
    markdown = " ".join(unescaped(render_markdown(report)).split())
    tables = [v.arms, *(t for s in (*v.comparisons, *v.sections) for t in s.tables)]
    cells = [cell for t in tables for row in t.rows for cell in row]
    assert len(cells) > 40
    for cell in cells:
        for text in (cell.text, cell.note):
            assert text in html
            assert text in markdown
    # The terminal shows fewer cells, none of its own making.
    known = html.replace(" ", "")
    for word in re.findall(r"\d[\d.]*(?:× \w+| [a-zµ%]+)", render_terminal(report).split("\n\n", 1)[1]):
        assert word.replace(" ", "") in known


def test_means_in_the_table_are_those_of_the_record(reports):
    report = reports["measured"]
    v = view(report)
    delta = next(d for d in report.comparisons[0].deltas if d.metric == "energy per inference (rapl)")
    row = next(row for row in v.arms.rows if row[0].text == "ONNX int8")
    cell = row[next(i for i, c in enumerate(v.arms.columns) if c.key == "energy")]
    assert float(cell.text.removesuffix(" mJ")) == pytest.approx(delta.candidate.value * 1e3, abs=0.05)
    assert v.key_figures[0].value == f"{100 * (1 - delta.ratio):.1f} % less"
