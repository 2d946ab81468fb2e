"""The overview page: one file that needs nothing, escapes everything, and answers what it is asked."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from compressor.history import page as page_module
from compressor.history.database import Entry, open_history
from compressor.history.exchange import record_run
from compressor.history.fronts import fronts
from compressor.history.page import MOST_ALONE, render_page
from compressor.history.rows import rows_of
from compressor.report import numbers

VOID = {"meta", "br", "wbr", "link", "img", "path", "use", "rect", "line", "circle"}


class Checker(HTMLParser):
    """Every element is closed by its own end; what the text says is kept."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags, self.ids = [], "", set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        # Numbers are tied to their units.
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def page(place, **options):
    with open_history(place) as history:
        text = render_page(fronts(history.arms()), history.entries(), history.count(), **options)
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    return text, checker


def test_the_page_needs_nothing_but_itself(filled_once):
    text, checker = page(filled_once)
    assert not checker.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert not re.search(r"(?:src|href)\s*=\s*\"(?!#)", text)
    assert "@import" not in text
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert "prefers-color-scheme: dark" in text
    assert text.count("<h1") == 1
    assert len(text) < 200_000


def test_the_page_shows_what_the_list_holds(filled_once):
    _, checker = page(filled_once)
    with open_history(filled_once) as history:
        for entry in history.entries():
            energy = entry.arm.energy_j
            assert numbers.quantity(energy.value, "J", energy.ci95) in checker.text
            assert entry.run.digest[:7] in checker.text
    assert (
        "fashion-mnist (fictional scores), 10 000 test examples: accuracy against energy per inference" in checker.text
    )
    assert "at least 92.4 %" in checker.text
    assert "Some of the energies were estimated, not measured." in checker.text
    assert "5 models of 5 runs listed" in checker.text


def test_the_page_begins_with_the_answers(filled_once):
    text, checker = page(filled_once)
    assert "At a glance" in checker.text.split("accuracy against")[0]
    assert re.search(r'Content-Security-Policy" content="default-src', text)
    _, asked = page(filled_once, min_score=0.9)
    assert "Cheapest at the score asked for" in asked.text


def test_a_threshold_has_the_digits_that_tell_it_from_the_next(variant):
    found = []
    for number, correct in enumerate((9188, 9000)):
        report = variant(number + 1, 0.37 - 0.1 * number, correct)
        run, arms = rows_of(report, f"{number:064x}", None)
        short = (replace(arm, score=replace(arm.score, ci95=(0.8, 0.99))) for arm in arms if arm.role == "candidate")
        found += [Entry(run, arm, None) for arm in short]
    text = render_page(fronts(found), [], 2)
    assert "at least 91.9" in text
    assert "at least 90.0" in text


def test_estimates_are_marked_in_their_cells(filled_once):
    text, _ = page(filled_once)
    cells = re.findall(r'<td class="num tone-estimated">([^<]*)<small>([^<]*)</small>', text)
    assert cells
    assert all("estimated" in note for _, note in cells)


@pytest.mark.parametrize(
    ("min_score", "answer"),
    [
        (0.9, "Cheapest with accuracy of at least 90.0 %: resnet8 · ONNX int8, 5.2 mJ [5.0, 5.5] per inference at"),
        (0.917, "at 91.9 % [91.3, 92.4]; its interval reaches below that."),
        (0.99, "No model has accuracy of at least 99.0 %; the nearest is resnet8 · ONNX int8 at 92.4 % [91.9, 92.9]."),
    ],
)
def test_the_cookbook_answers(filled_once, min_score, answer):
    _, checker = page(filled_once, min_score=min_score)
    assert answer in checker.text


def test_a_score_that_is_sure_is_not_called_unsure(filled_once):
    _, checker = page(filled_once, min_score=0.8)
    assert "resnet8 · ONNX int8, 2.8" in checker.text
    assert "its interval reaches" not in checker.text


def test_hostile_names_harm_nothing(place, fictional):
    nasty = "</style><script>alert(1)</script>\x1b[31m\u202e\n\"'><b>$x^2$ " + "x" * 10_000
    for day in (1, 2):
        last = replace(fictional.ARMS[3], name=f"{nasty}{day}", cpu_ms=0.3 / day, correct=9188 - 100 * day)
        report = fictional.build((fictional.RAPL,), (*fictional.ARMS[:3], last))
        arms = tuple(
            replace(
                m,
                environment=replace(m.environment, cpu=nasty),
                runtime=replace(m.runtime, name=nasty, device=nasty),
                artifact=replace(m.artifact, sha256=f"{day}{m.arm[:9]}"),
                score=replace(m.score, unit=nasty[:40]),
            )
            for m in report.measurements
        )
        report = replace(
            report,
            measurements=arms,
            model=replace(report.model, name=nasty),
            task=replace(report.task, name=nasty, metric=nasty),
            created_utc=f"2030-01-0{day} {nasty}",
        )
        record_run(report, None, str(place))
    text, checker = page(place, min_score=0.9)
    assert not checker.tags & {"script", "b"}
    assert not {"\x1b", "\u202e"} & set(text)
    assert text.count("<style") == text.count("</style>") == 1 + text.count("<svg")
    assert len(text) < 200_000


def test_an_empty_history_has_a_page(place):
    with open_history(place, write=True):
        pass
    _, checker = page(place)
    assert "so there is nothing to rank" in checker.text


def test_many_fronts_are_cut_and_that_is_said(variant, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_PLOTS", 2)
    entries = []
    for report in (variant(1, 0.37, 9188), variant(2, 0.2, 8900)):
        run, arms = rows_of(report, "a" * 64, None)
        for batch in range(MOST_ALONE + 10):
            entries += [Entry(run, replace(arm, batch=batch), None) for arm in arms]
    text = render_page(fronts(entries), entries[:50], len(entries))
    assert text.count("<svg") == 2
    assert "10 more are not shown" in text
    assert f"{len(entries) - 50} more not shown" in text
