"""One style for every plot, and SVG that takes its colours and its font from the page around it.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables: one drawing serves light, dark and
print.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.report import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK, FAINT, BASELINE, CANDIDATE, GOOD, BAD, BAND = (f"#{i:02x}fe{i:02x}" for i in range(1, 8))
_SERIES = tuple(f"#{i:02x}fe{i:02x}" for i in range(8, 12))
_MARKS = ("o", "s", "^", "D")
_LINES = ("-", "--", "-.", ":")
_VARIABLES = {
    **{colour: f"var(--series{i})" for i, colour in enumerate(_SERIES)},
    INK: "currentColor",
    FAINT: "var(--faint)",
    BASELINE: "var(--baseline)",
    CANDIDATE: "var(--candidate)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    BAND: "var(--band)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compressor",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": BAND,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}
_WIDTH = 4.6


@dataclass(frozen=True)
class Figure:
    """A plot to set into a page.

    Attributes:
        svg: An ``<svg>`` element with a title and a description.
        caption: What it shows, as plain text.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Look:
    """How one of several lines is told apart: by colour (Okabe and Ito's), by marker and by dashes."""

    colour: str
    marker: str
    line: str


def series(index: int) -> Look:
    """The look of the line of this number, from 0; the first four differ in all three."""
    return Look(_SERIES[index % 4], _MARKS[index % 4], _LINES[(index + index // 4) % 4])


def plain(text: str) -> str:
    """Text that matplotlib must not take for mathematics."""
    return text.replace("$", r"\$")


def axis_unit(values: Sequence[float], unit: str) -> tuple[float, str]:
    """One scale and label for a whole axis, from its middle value."""
    label = numbers.quantity(sorted(values)[len(values) // 2], unit).split(" ", 1)[-1]
    return {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "m": 1e-3, "µ": 1e-6, "n": 1e-9}.get(
        label.removesuffix(unit), 1.0
    ), label


@dataclass(frozen=True)
class Label:
    """A name to write beside a point.

    Attributes:
        text: The name.
        x: Where the point is.
        y: Where the point is.
        colour: Of the name: that of its mark, where marks lie close.
        bar: Ends of the point's interval upwards. Names keep clear of it and of the marks where they can.
    """

    text: str
    x: float
    y: float
    colour: str = INK
    bar: tuple[float, float] | None = None


_Box = tuple[float, float, float, float]


def _meet(box: _Box, others: Sequence[_Box]) -> bool:
    return any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in others)


def label_points(axes: Axes, names: Sequence[Label]) -> None:
    """Write names beside their points, where they cover no other name and stay within the axes.

    Args:
        axes: With their limits as they stay.
        names: One for which there is no room is left out.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()

    def share(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left), (y - bottom) / (top - bottom)

    drawn = [(*share(one.x, one.bar[0]), *share(one.x, one.bar[1])) for one in names if one.bar is not None]
    marks = [share(one.x, one.y) for one in names]
    drawn += [(x - 0.015, y - 0.02, x + 0.015, y + 0.02) for x, y in marks]
    taken: list[_Box] = []
    # The lowest first, which goes below its point if it can: of two close points each name is then on its own side.
    for one in sorted(names, key=lambda one: one.y):
        at = share(one.x, one.y)
        # Shares of the axes, which are about 275 points wide and 190 high.
        width, height = len(one.text) * 5.6 / 275, 13 / 190
        beside, before = 0.02, -0.02 - width
        # A front runs to the right and then up or, where less is better, down: below its points there is mostly room.
        places = [(beside, -0.09), (beside, 0.05), (before, -0.09), (before, 0.05), (beside, 0.13), (beside, -0.17)]
        if one.bar is not None:
            low, high = (share(one.x, end)[1] - at[1] for end in one.bar)
            places += [(-0.01, high + 0.01), (-0.01, low - height - 0.01)]
        boxes = [(at[0] + dx, at[1] + dy, at[0] + dx + width, at[1] + dy + height) for dx, dy in places]
        inside = [b for b in boxes if b[0] >= 0 and b[2] <= 1.02 and b[1] >= 0 and b[3] <= 1 and not _meet(b, taken)]
        if inside:
            box = min(inside, key=lambda b: sum(_meet(b, [thing]) for thing in drawn))
            taken.append(box)
            axes.text(box[0], box[1], one.text, color=one.colour, transform=axes.transAxes, va="bottom")


def draw(key: str, title: str, description: str, height: float, paint: Callable[[Axes], None]) -> str:
    """Draw a plot for a page.

    Args:
        key: Short name, unique within the page.
        title: What a reader who cannot see it is told first.
        description: The figures it shows.
        height: In inches; the width is the same for all.
        paint: Draws on fresh axes, in the colours of this module.

    Returns:
        An ``<svg>`` element with ids of its own.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as NewCanvas

    # Only this drawing's style: neither pyplot nor the user's own settings take part. The backend is left alone, since
    # even reading that setting would load one.
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context({**defaults, **_STYLE}), warnings.catch_warnings():
        # Names in scripts that the measuring font lacks: the page's own font shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        canvas: Canvas = NewCanvas(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(canvas)
        paint(canvas.subplots())
        # Laid out here, once: while an engine is set, saving draws everything a second time only to lay it out.
        engine = canvas.get_layout_engine()
        if engine is not None:
            engine.execute(canvas)
            canvas.set_layout_engine(None)
        out = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Type": None, "Format": None}
        canvas.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _element(out.getvalue(), key, title, description)


def _element(svg: str, key: str, title: str, description: str) -> str:
    """Strip a stand-alone SVG to an element: own ids, the page's colours and font, a title and a description."""
    key = f"plot-{key}"
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', body)
    body = body[body.index(">") + 1 :]
    body = body.replace("xlink:href", "href")
    body = re.sub(r'(id="|url\(#|href="#)', rf"\1{key}-", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, variable)
    body = re.sub(r"font: (?:[\w.]+ )*?([\d.]+px) [^;\"]+", r"font-size: \1", body)
    return (
        f'<svg role="img" aria-labelledby="{key}-title {key}-desc" viewBox="{box[1] if box else "0 0 400 300"}">'
        f'<title id="{key}-title">{html.escape(title)}</title><desc id="{key}-desc">{html.escape(description)}</desc>'
        f"{body.strip()}"
    )
