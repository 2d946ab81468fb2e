import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from compressor.report.text import clean, shorten


def test_controls_are_shown_and_not_obeyed():
    assert clean("a\x1b[31mb") == "a\\x1b[31mb"
    assert clean("user\u202egnp.exe") == "user\\u202egnp.exe"
    assert clean("two\nlines\r\n\tthree") == "two lines three"
    assert clean("lone \ud800 surrogate") == "lone \\ud800 surrogate"
    assert clean("z" + "\u0301" * 50) == "z\u0301\u0301"


def test_long_text_is_cut_at_its_end_and_long_names_in_the_middle():
    assert clean("x" * 10_000, 20) == "x" * 19 + "…"
    assert shorten("short", 10) == "short"
    assert shorten("blocks.0.weight.of.layer.17", 11) == "block…er.17"


@given(st.text())
def test_no_text_holds_what_a_format_could_obey(text):
    shown = clean(text, 50)
    assert len(shown) <= 50
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
