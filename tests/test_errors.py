"""Errors are one line: what, where, how to mend it."""

from __future__ import annotations

import pytest

from compressor.errors import CompressorError, ModelError, nearest


def test_where_what_and_mend_in_that_order() -> None:
    error = ModelError("is empty", where="model.pt", mend="check the path")
    assert str(error) == "model.pt: is empty; check the path"
    assert (error.what, error.where, error.mend) == ("is empty", "model.pt", "check the path")


@pytest.mark.parametrize("text", ["two\nlines", "a\ttab", "spaces    inside", "line\r\nends "])
def test_message_is_one_line_whatever_a_library_said(text: str) -> None:
    shown = str(CompressorError(text, where="odd\nname"))
    assert "\n" not in shown
    assert "  " not in shown


def test_bad_input_exits_with_2() -> None:
    assert CompressorError("x").exit_code == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("itn8", "did you mean 'int8'? known: fp16, int8"),
        ("INT8", "did you mean 'int8'? known: fp16, int8"),
        ("zebra", "known: fp16, int8"),
    ],
)
def test_nearest_known_name(given: str, expected: str) -> None:
    assert nearest(given, ["int8", "fp16"]) == expected


def test_nearest_of_nothing() -> None:
    assert nearest("x", []) == "known: none"
