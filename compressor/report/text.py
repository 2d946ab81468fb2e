"""Making text from models, files and libraries safe to show, whatever it holds."""

from __future__ import annotations

import re
import unicodedata

from compressor.results import Workload

_SHOWN_AS_SPACE = {" ", "\n", "\r", "\t", "\v", "\f", "\x85", "\u2028", "\u2029"}
# Controls, formats (right-to-left marks, zero-width characters), lone surrogates, unassigned and private characters.
_ESCAPED = {"Cc", "Cf", "Cs", "Cn", "Co"}
_MARKS_IN_A_ROW = 2
_LONGEST_NAME = 60
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(?:Z|\+00:00)")


def clean(text: str, limit: int = 160) -> str:
    r"""Put text on one line, make invisible and controlling characters visible, and cut it.

    Args:
        text: Anything: a model's name, a path, a label, a library's message.
        limit: Most characters to keep; an ellipsis stands for the rest.

    Returns:
        At most ``limit`` printable characters. An escape character becomes ``\x1b``, a right-to-left override
        ``\u202e``: seen rather than obeyed.
    """
    parts: list[str] = []
    length = marks = 0
    for character in text:
        category = unicodedata.category(character)
        if character in _SHOWN_AS_SPACE:
            piece = "" if parts and parts[-1] == " " else " "
        elif category in _ESCAPED:
            piece = character.encode("unicode_escape").decode("ascii")
        else:
            # Stacked combining marks climb over the lines above.
            marks = marks + 1 if category in ("Mn", "Me") else 0
            piece = "" if marks > _MARKS_IN_A_ROW else character
        if length + len(piece) > limit:
            return "".join(parts)[: limit - 1].rstrip() + "…"
        parts += [piece] if piece else []
        length += len(piece)
    return "".join(parts).strip()


def named(name: str) -> str:
    """An arm's name as it is shown: safe, and no longer than a line of a table bears."""
    return shorten(clean(name, 400), _LONGEST_NAME)


def moment(utc: str) -> str:
    """A record's time as people write it, to the minute; anything that is no time as it stands."""
    found = _TIME.fullmatch(utc)
    return f"{found[1]} {found[2]} UTC" if found else clean(utc, 40)


def work(workload: Workload) -> str:
    """What a call is where tokens are counted: ``decode 32 after 128 tokens``."""
    prompt = f"{workload.prompt_tokens} token{'s' * (workload.prompt_tokens != 1)}"
    return f"prefill of {prompt}" if workload.phase == "prefill" else f"decode {workload.new_tokens} after {prompt}"


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of a name, since names differ at their ends.

    Args:
        text: Text that went through :func:`clean`.
        limit: Most characters to keep.

    Returns:
        The text, or its start and end around an ellipsis.
    """
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (limit - 1 - head) :].lstrip()}"
