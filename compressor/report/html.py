"""The report as one self-contained HTML page: no script, no network, fit for print and for the dark."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from compressor.report.figures import figures
from compressor.report.view import view
from compressor.results import Report

if TYPE_CHECKING:
    from jinja2 import Template


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("compressor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def render_html(report: Report) -> str:
    """Render a report as HTML.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        A whole page. Every text of the record is escaped; only the plots, which :mod:`compressor.report.figures` draws
        and escapes itself, are inserted as they are.
    """
    from markupsafe import Markup

    drawn = {key: (Markup(figure.svg), figure.caption) for key, figure in figures(report).items()}
    return _template().render(view=view(report), figures=drawn)
