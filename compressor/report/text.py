"""Making text from models, files and libraries safe to show, whatever it holds."""

from __future__ import annotations

import unicodedata

_SHOWN_AS_SPACE = {" ", "\n", "\r", "\t", "\v", "\f", "\x85", "\u2028", "\u2029"}
# Controls, formats (right-to-left marks, zero-width characters), lone surrogates, unassigned and private characters.
_ESCAPED = {"Cc", "Cf", "Cs", "Cn", "Co"}
_MARKS_IN_A_ROW = 2


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
