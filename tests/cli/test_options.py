"""How the values of options are read."""

from __future__ import annotations

from typing import Any

import click
import pytest

from compressor.cli.options import columns, command_line, counts, names, shapes
from compressor.cli.stream import _size

NONE: Any = None


def test_lists() -> None:
    assert names(NONE, NONE, "onnxruntime, torch") == ("onnxruntime", "torch")
    assert names(NONE, NONE, None) == ()
    assert columns(NONE, NONE, "question, context") == ("question", "context")
    assert columns(NONE, NONE, None) is None
    assert counts(NONE, NONE, "8, 1,8") == (8, 1)
    assert counts(NONE, NONE, None) == ()
    assert shapes(NONE, NONE, ("1x28x28", "3×4", "5")) == ((1, 28, 28), (3, 4), (5,))
    assert shapes(NONE, NONE, ()) is None


@pytest.mark.parametrize("text", ["", "1,28", "1x0", "1x-2", "x", "1x", "²"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a shape such as 1x28x28 \(without the batch axis\)$"):
        shapes(NONE, NONE, (text,))


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500mb", 5 * 10**8), ("1.5 k", 1500), ("7", 7), ("7b", 7), (" 3 KB ", 3000)],
)
def test_sizes(text: str, size: int) -> None:
    assert _size(NONE, NONE, text) == size


@pytest.mark.parametrize("text", ["", "GB", "2 TB", "-1GB", "2GB more", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a size such as 2GB or 500MB$"):
        _size(NONE, NONE, text)


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/compress", "my model.pt2", "--keep", "head*"])
    assert command_line() == "compress 'my model.pt2' --keep 'head*'"
