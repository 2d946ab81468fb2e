"""The report as one self-contained HTML page: no script, no network, fit for print and for the dark."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from compressor.report.figures import figures
from compressor.report.view import view
from compressor.results import Report

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

# Behind a number: per cent, a unit, a point, or the next three of its digits.
_TIES = re.compile(r"(?<=\d) (?=%|[µnmkMG]?(?:[sJWB]|Wh)\b|points?\b|\d{3}\b)")


def _tied(text: str) -> Markup:
    """Text whose numbers stay on the line of their units, and whose names may break behind a plus sign."""
    from markupsafe import Markup, escape

    return Markup(_TIES.sub("\N{NO-BREAK SPACE}", str(escape(text))).replace("+", "+<wbr>"))


@functools.cache
def template(package: str, name: str) -> Template:
    """A page's template; what it includes may lie beside it or beside the report's.

    Args:
        package: Where it lies, in the folder ``templates``.
        name: Its file.

    Returns:
        The template; every text that it is given is escaped.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("compressor.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = _tied
    return environment.get_template(name)


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
    return template("compressor.report", "report.html.jinja").render(view=view(report), figures=drawn)
