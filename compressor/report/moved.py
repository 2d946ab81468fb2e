"""The confusion that moved: accuracy by class before and after, and examples that flipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.report import numbers
from compressor.report.canvas import BAD, BASELINE, FAINT, GOOD, Figure, draw, plain
from compressor.report.model import Cell, Column, Detail, Example, Section, Table, Tone
from compressor.report.text import clean, named, shorten
from compressor.results import ClassMoved, Confusion, Report
from compressor.stats import paired_proportion_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 30
_NAME = 60


def moved_section(report: Report) -> Section | None:
    """What moved; ``None`` where the task is no classification."""
    found = report.confusion
    if found is None:
        return None
    columns = (
        Column("class", "Class"),
        Column("examples", found.counted.capitalize(), numeric=True),
        Column("before", "Right before", numeric=True),
        Column("after", "Right after", numeric=True),
        Column("change", "Change", "points, 95 % interval", numeric=True),
    )
    order = sorted(found.classes, key=lambda one: -abs(one.right_after - one.right_before))
    rows = tuple(_row(one) for one in order)
    changed = found.broken + found.mended + found.moved
    total = sum(one.examples for one in found.classes)
    text = [
        f"{numbers.count(changed)} of {numbers.count(total)} {found.counted} got another answer from "
        f"{named(found.candidate)} than from {named(found.baseline)}: {numbers.count(found.broken)} went from right to "
        f"wrong, {numbers.count(found.mended)} from wrong to right, {numbers.count(found.moved)} from one wrong answer "
        "to another.",
    ]
    if not changed:
        text = [f"No answer changed on {numbers.count(total)} {found.counted}."]
    lines = tuple(", ".join(f"{c.label}: {cell.text}" for c, cell in zip(columns, row, strict=True)) for row in rows)
    details = (Detail(f"The other {len(rows) - _SHOWN} classes", lines[_SHOWN:]),) if len(rows) > _SHOWN else ()
    return Section(
        "moved",
        "What moved between the classes",
        tuple(text),
        tables=(Table("Accuracy by class, the largest change first", columns, rows[:_SHOWN]),),
        details=details,
        figures=("moved",),
        examples=_examples(found),
    )


def _row(one: ClassMoved) -> tuple[Cell, ...]:
    before, after = one.right_before / one.examples, one.right_after / one.examples
    change = one.right_after - one.right_before
    tone: Tone = "plain" if not change else "good" if change > 0 else "bad"
    low, high = _loss_interval(one)
    ends = f"[{_points(-high, one.examples)}, {_points(-low, one.examples)}]"
    return (
        Cell(clean(one.name, _NAME)),
        Cell(numbers.count(one.examples)),
        Cell(_share(before, one.examples), note=f"{one.right_before}"),
        Cell(_share(after, one.examples), note=f"{one.right_after}"),
        Cell(_points(change / one.examples, one.examples), tone, ends),
    )


def _share(value: float, examples: int) -> str:
    """Per cent, with a decimal only where one example is less than one per cent."""
    return f"{100 * value:.{1 if examples >= 100 else 0}f} %"


def _points(value: float, examples: int) -> str:
    """Points with their sign; a zero has none."""
    text = f"{100 * value:+.{1 if examples >= 100 else 0}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def _examples(found: Confusion) -> tuple[Example, ...]:
    shown = []
    place = "Test example" if found.counted == "test examples" else "A word of test example"
    for flip in found.flips:
        broken, mended = flip.before == flip.target, flip.after == flip.target
        what, tone = ("now wrong", "bad") if broken else ("now right", "good") if mended else ("still wrong", "open")
        names = [clean(name, 30) for name in (flip.target, flip.before, flip.after)]
        shown.append(
            Example(
                f"{place} {flip.index}: {what}",
                f"{names[1]} → {names[2]}, right is {names[0]}",
                tone,  # type: ignore[arg-type]
                flip.picture,
                clean(flip.text, 160),
            )
        )
    return tuple(shown)


def _loss_interval(one: ClassMoved) -> tuple[float, float]:
    """95 % interval of the class's loss, from its discordant pairs."""
    mended = one.right_after - one.right_before + one.broken
    same = one.examples - one.broken - mended
    before = [True] * one.broken + [False] * mended + [True] * same
    after = [False] * one.broken + [True] * mended + [True] * same
    return paired_proportion_loss(before, after)[1]


def moved_figure(report: Report) -> Figure | None:
    """Change of accuracy by class, with the interval that its examples allow."""
    found = report.confusion
    if found is None or len(found.classes) < 2:
        return None
    order = sorted(found.classes, key=lambda one: (one.right_after - one.right_before) / one.examples)
    drawn = order if len(order) <= _SHOWN else [*order[: _SHOWN // 2], *order[-_SHOWN // 2 :]]
    title = "Change of accuracy by class"
    listed = "; ".join(
        f"{clean(one.name, 40)}: {100 * (one.right_after - one.right_before) / one.examples:+.1f} points"
        for one in drawn[:12]
    )

    def paint(axes: Axes) -> None:
        for i, one in enumerate(drawn):
            change = 100 * (one.right_after - one.right_before) / one.examples
            colour = FAINT if not change else GOOD if change > 0 else BAD
            low, high = _loss_interval(one)
            axes.plot([-100 * high, -100 * low], [i, i], color=colour, lw=1.2, alpha=0.7)
            axes.plot(change, i, marker="s" if change > 0 else "v" if change < 0 else "o", ms=6, color=colour)
        axes.axvline(0, color=BASELINE, lw=1)
        axes.set_yticks(range(len(drawn)), [plain(shorten(clean(one.name), 24)) for one in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("points of accuracy, after minus before")

    svg = draw("moved", title, listed, 0.9 + 0.24 * max(len(drawn), 3), paint)
    caption = (
        "After minus before, on the same test examples, with 95 % intervals (Bonett and Price). With many classes some "
        "intervals leave out 0 by chance."
    )
    return Figure(svg, caption)
