import re
from html.parser import HTMLParser

import pytest

from compressor.report.html import render_html

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}


class Page(HTMLParser):
    """A page's elements, refusing tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.elements, self.headings = [], [], []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


CASES = [
    "estimated", "measured", "control failed", "across one", "missing domain", "mixed", "worse", "nothing measured",
    "synthetic", "no task",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_sound_and_self_contained(case, pages):
    text = pages[case]
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "object", "image"} & set(tags)
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text
    assert not [a for _, attrs in page.elements for a in attrs if a.startswith("on")]
    linked = [v for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href") and v[0] != "#"]
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", v) for v in linked)
    # Should anything slip through the escaping, the browser itself is told to run and fetch nothing.
    policy = [attrs["content"] for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert dict(page.elements)["html"] == {"lang": "en"}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in (attrs.get("aria-labelledby") or "").split():
            assert name in ids


@pytest.mark.parametrize("case", CASES)
def test_headings_step_down_by_one_and_pictures_have_words(case, pages):
    text = pages[case]
    page = Page(text)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert all(attrs["alt"] for tag, attrs in page.elements if tag == "img")
    pictures = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(pictures) >= 3
    assert all(attrs["role"] == "img" for attrs in pictures)
    assert len(re.findall(r"<svg[^>]*><title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", text)) == len(pictures)


def test_it_serves_dark_mode_print_and_small_screens(pages):
    text = pages["measured"]
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 640px", "overflow-x: auto"):
        assert rule in text
    # Every table scrolls in its own box.
    assert text.count("<table>") == len(re.findall(r'<div class="scroll"[^>]*><table>', text))


def contrast(one, other):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_text_has_contrast_aa_on_both_grounds(pages):
    text = pages["measured"]
    schemes = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = {
            name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            for name, value in re.findall(r"--([a-z0-9]+): (#[0-9a-f]{3,6})", scheme)
        }
        for name in ("text", "soft", "good", "bad", "open", "void", "estimated", "measured"):
            for ground in ("paper", "raised"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("baseline", "candidate", "faint", "series0", "series1", "series2", "series3"):
            assert contrast(colours[name], colours["paper"]) >= 3, name


def test_hostile_text_is_only_text(pages):
    text = pages["hostile"]
    page = Page(text)
    assert "script" not in [tag for tag, _ in page.elements]
    assert "&lt;script&gt;alert(1)" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "x" * 2100 not in text
    assert len(text) < 400_000


def test_thirty_arms_and_a_thousand_trials_stay_small(make_many):
    report = make_many(30, 34)
    assert sum(len(m.trials) for m in report.measurements) >= 1_000
    text = render_html(report)
    Page(text)
    assert len(text.encode()) < 2_000_000
    assert "ONNX int8 variant 26" in text
