"""``compress report``: a finished run in other formats, from its JSON alone."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.options import names

if TYPE_CHECKING:
    from compressor.results import Report

_OPTIONS = {
    "country": "--country",
    "intensity_g_per_kwh": "--carbon-intensity",
    "pue": "--pue",
    "inferences": "--uses",
    "training_kwh": "--training-kwh",
    "embodied_g": "--embodied-g",
    "alpha": "--alpha",
    "data_efficiency": "--data-efficiency",
}
"""Field of :class:`compressor.results.Usage` to the option that sets it."""


def _fractions(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[float, float], ...]:
    """Parse ``--data-efficiency 0.1=0.85``, once per point."""
    found = []
    for text in values:
        fraction, _, score = text.partition("=")
        try:
            found.append((float(fraction), float(score)))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not FRACTION=SCORE, such as 0.1=0.85") from None
    return tuple(found)


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    callback=names,
    metavar="NAME,...",
    help="html, md, json, pdf, txt, card (model card), csv, sci (ISO/IEC 21031), annex (EU AI Act).  "
    "[default: print the summary, write nothing]",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.  [default: the run's]")
@click.option(
    "--country", metavar="CODE", help="Where the model runs, e.g. DE, US or WORLD: sets the carbon intensity."
)
@click.option("--carbon-intensity", "intensity_g_per_kwh", type=float, metavar="G", help="g CO2e per kWh, instead.")
@click.option("--pue", type=float, metavar="X", help="Power usage effectiveness of the building.  [default: 1]")
@click.option("--uses", "inferences", type=int, metavar="N", help="Inferences over the model's lifetime.")
@click.option("--training-kwh", type=float, metavar="X", help="Energy that training took, if you know it.")
@click.option("--embodied-g", type=float, metavar="G", help="g CO2e of making the hardware, shared among --uses.")
@click.option("--alpha", type=float, metavar="X", help="Weight of the error in Error^α × energy.  [default: 1]")
@click.option(
    "--data-efficiency",
    multiple=True,
    callback=_fractions,
    metavar="FRACTION=SCORE",
    help="Score reached with a part of the training data; may be repeated.",
)
def report(run: Path, formats: tuple[str, ...], out: Path | None, **said: Any) -> None:
    """Render a finished run in other formats.

    RUN is its folder or its report.json. Everything comes from the JSON: neither model nor data are needed.
    """
    from compressor.report.formats import find_format
    from compressor.store.records import dump_report
    from compressor.store.runfolder import write_beside

    wanted = {name: None if name == "json" else find_format(name) for name in formats}
    record = _with_use(_load(run), said)
    if not wanted:
        from compressor.report.terminal import render_terminal

        click.echo(render_terminal(record, 80, sys.stdout.isatty() and "NO_COLOR" not in os.environ), nl=False)
        return
    folder = _folder(run, out)
    # The one that may be missing comes last, so that it does not keep the others from being written.
    for name, known in sorted(wanted.items(), key=lambda item: item[0] == "pdf"):
        path = folder / ("report.json" if known is None else known.file)
        write_beside(path, dump_report(record) if known is None else known.render(record))
        click.echo(f"{name:6} {path}")


def _load(run: Path) -> Report:
    from compressor.errors import OutputError
    from compressor.results import BenchRecord
    from compressor.store.records import load_measured

    path = run / "report.json" if run.is_dir() else run
    if run.is_dir() and not path.is_file():
        raise OutputError("is no finished run: it has no report.json", where=run)
    found = load_measured(path)
    if isinstance(found, BenchRecord):
        mend = "name a run's folder or its report.json"
        raise OutputError("is the record of a benchmark, which compressed nothing", where=path, mend=mend)
    return found


def _folder(run: Path, out: Path | None) -> Path:
    from compressor.errors import OutputError

    folder = out if out is not None else run if run.is_dir() else run.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", where=folder) from error
    return folder


def _with_use(record: Report, said: dict[str, Any]) -> Report:
    """The record with what the command line says of use in front of what it held."""
    from compressor.carbon import grid, wrong
    from compressor.errors import RecipeError
    from compressor.results import Usage

    given = {name: value for name, value in said.items() if value not in (None, ())}
    if not given:
        return record
    if "country" in given:
        given["country"] = grid(given["country"]).code
        if "intensity_g_per_kwh" not in given:
            given["intensity_g_per_kwh"] = None
    usage = dataclasses.replace(record.usage or Usage(), **given)
    for key, what in wrong(usage):
        raise RecipeError(what, where=_OPTIONS[key])
    return dataclasses.replace(record, usage=usage)
