"""Every format that a report is rendered in, by name; all of them from the record alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compressor.errors import RecipeError, nearest
from compressor.report.card import render_card
from compressor.report.disclosure import render_annex, render_csv, render_sci
from compressor.report.html import render_html
from compressor.report.markdown import render_markdown
from compressor.report.pdf import render_pdf
from compressor.report.terminal import render_terminal
from compressor.results import Report


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        file: Name of the file it is written to.
        render: From a report to its text, or bytes.
        says: What it is, in a few words.
    """

    file: str
    render: Callable[[Report], str | bytes]
    says: str


FORMATS = {
    "html": Format("report.html", render_html, "one self-contained page"),
    "md": Format("report.md", render_markdown, "Markdown"),
    "pdf": Format("report.pdf", render_pdf, "the page, printed by Chromium"),
    "txt": Format("report.txt", render_terminal, "the terminal's summary"),
    "card": Format("README.md", render_card, "model card for a model hub"),
    "csv": Format("arms.csv", render_csv, "the arms as a table"),
    "sci": Format("sci.json", render_sci, "Software Carbon Intensity, ISO/IEC 21031"),
    "annex": Format("annex-xi.md", render_annex, "energy fields of the EU AI Act's Annex XI"),
}
"""By the name that ``compress report --format`` takes; ``json`` is the record itself and is written by the store."""


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in FORMATS:
        raise RecipeError(f"there is no format {name!r}", where="--format", mend=nearest(name, [*FORMATS, "json"]))
    return FORMATS[name]
