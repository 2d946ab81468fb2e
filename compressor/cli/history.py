"""``compress history``: the runs so far; and how the commands that make runs record them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.options import print_json, together
from compressor.errors import CompressorError, HistoryError, nearest

if TYPE_CHECKING:
    from compressor.history.database import Entry, History
    from compressor.results import BenchRecord, Report

_SHOWN = 50
_KEYS = ("created", "model", "task", "score", "energy", "cpu-time", "compress-energy", "carbon", "size")

place = click.option(
    "--history",
    "history_file",
    metavar="FILE",
    help="History to use, or 'off'.  [default: $COMPRESSOR_HISTORY, else one in the user's data folder]",
)
recording = together(
    place,
    click.option(
        "--mlflow",
        is_flag=False,
        flag_value="",
        metavar="[URI]",
        help="Log the run to MLflow; without =URI where $MLFLOW_TRACKING_URI says.",
    ),
)


def prepare(mlflow: str | None) -> None:
    """See to it before the run that what was asked for can be done after it."""
    if mlflow is not None:
        from compressor.mlflow import require_mlflow

        require_mlflow()


def keep(
    record: Report | BenchRecord, folder: Path | None, history_file: str | None, mlflow: str | None, *, quiet: bool
) -> None:
    """Record a finished run. What fails here is told loudly and takes nothing from the run."""
    from compressor.history.exchange import record_run

    try:
        digest = record_run(record, folder, history_file)
        if digest is not None and not quiet:
            click.echo(f"History           {digest[:7]}  (compress history show {digest[:7]})")
    except CompressorError as error:
        later = ""
        if folder is not None:
            later = (
                f"; add it later with: compress history import {folder / 'report.json' if folder.is_dir() else folder}"
            )
        click.echo(f"NOT RECORDED in the history: {error}{later}", err=True)
    if mlflow is not None:
        from compressor.mlflow import log_run
        from compressor.results import Report

        try:
            where = log_run(record, folder, mlflow or None) if isinstance(record, Report) and folder else ""
            if where and not quiet:
                click.echo(f"MLflow            {where}")
        except CompressorError as error:
            click.echo(f"NOT LOGGED to MLflow: {error}", err=True)


@click.group(invoke_without_command=True)
@place
@click.option("--task", metavar="NAME", help="Only this task.")
@click.option("--min-score", type=float, metavar="X", help="Only models that score X or better.")
@click.option("--sort", default="created", show_default=True, metavar="KEY", help=f"Best first: {', '.join(_KEYS)}.")
@click.option("--limit", type=int, default=_SHOWN, metavar="N", show_default=True, help="Most models; 0 for all.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the overview page instead.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, with every figure.")
@click.pass_context
def history(ctx: click.Context, /, history_file: str | None, **listed: Any) -> None:
    """List the models of all runs: task, score, energy, carbon.

    The page of --html has a Pareto front per task and says which model is cheapest at each score, or at --min-score.
    """
    ctx.obj = history_file
    if ctx.invoked_subcommand is None:
        _list(_place(history_file), **listed)


def _place(history_file: str | None) -> Path:
    from compressor.history.file import OFF, VARIABLE, history_place

    found = history_place(history_file)
    if found is None:
        where = "--history" if history_file == OFF else VARIABLE
        raise HistoryError("the history is switched off", where=where, mend="name a file with --history")
    return found


def _list(
    path: Path,
    task: str | None,
    min_score: float | None,
    sort: str,
    limit: int,
    html: Path | None,
    as_json: bool,
) -> None:
    from compressor.history.database import open_history
    from compressor.history.file import default_place
    from compressor.store.runfolder import require_place

    if sort not in _KEYS:
        raise HistoryError(f"there is no '{sort}' to sort by", where="--sort", mend=nearest(sort, _KEYS))
    if min_score is not None and not math.isfinite(min_score):
        raise HistoryError(f"must be a number, not {min_score:g}", where="--min-score")
    if limit < 0:
        raise HistoryError(f"must be 0 or more, not {limit}", where="--limit")
    if html is not None:
        require_place(html)
    if not path.exists() and path == default_place():
        click.echo("[]" if as_json else f"No run is recorded yet; {path} is written by the first one.")
        return
    with open_history(path) as found:
        wanted: dict[str, Any] = {"task": task, "min_score": min_score, "sort": sort, "limit": limit or None}
        entries = found.entries(**wanted, compared=as_json or html is not None)
        total = found.count(task=task, min_score=min_score)
        if html is not None:
            _write_page(found, html, entries, total, task, min_score)
            return
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    if not entries:
        click.echo("No run is recorded yet." if min_score is None else f"No model scores {min_score:g} or better.")
        return
    from compressor.history.listing import listing

    click.echo("\n".join(listing(entries, total - len(entries))))


def _write_page(
    found: History, html: Path, entries: list[Entry], total: int, task: str | None, min_score: float | None
) -> None:
    from compressor.history.fronts import fronts
    from compressor.history.page import render_page
    from compressor.store.runfolder import write_beside

    write_beside(html, render_page(fronts(found.arms(task=task)), entries, total, min_score))
    click.echo(f"Overview  {html}")


@history.command()
@click.argument("run", metavar="ID")
@place
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.pass_obj
def show(outer: str | None, run: str, history_file: str | None, as_json: bool) -> None:
    """Show one run: its summary, and where its files were."""
    from compressor.history.database import open_history
    from compressor.report.text import clean
    from compressor.store.records import parse_measured

    with open_history(_place(history_file or outer)) as found:
        row = found.find(run)
        text = found.record(row.digest)
    if as_json:
        click.echo(text.rstrip("\n"))
        return
    _print(parse_measured(text, f"run {row.digest[:7]}"))
    click.echo(f"Run               {row.digest[:12]}, {clean(row.created_utc, 40)}")
    if row.folder is not None:
        gone = "" if Path(row.folder).exists() else "  (no longer there)"
        click.echo(f"Files             {clean(row.folder)}{gone}")


def _print(record: Report | BenchRecord) -> None:
    from compressor.console import WIDTH, print_bench
    from compressor.report.terminal import render_terminal
    from compressor.results import Report

    if isinstance(record, Report):
        click.echo(render_terminal(record, WIDTH))
    else:
        print_bench(record)


@history.command()
@click.argument("runs", nargs=-1, required=True, metavar="ID...")
@place
@click.pass_obj
def remove(outer: str | None, runs: tuple[str, ...], history_file: str | None) -> None:
    """Remove runs from the history; their files stay where they are."""
    from compressor.history.database import open_history
    from compressor.report.text import clean

    path = _place(history_file or outer)
    with open_history(path):
        pass  # a history that is not there is not made
    with open_history(path, write=True) as found:
        rows = [found.find(run) for run in runs]
        for row in rows:
            found.remove(row.digest)
            what = ", ".join(clean(text, 40) for text in (row.model, row.task, row.created_utc))
            click.echo(f"removed {row.digest[:12]}: {what}")


@history.command("export")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.jsonl")
@place
@click.pass_obj
def export_(outer: str | None, file: Path, history_file: str | None) -> None:
    """Write every run with its whole record as a line of JSON."""
    from compressor.history.database import open_history
    from compressor.history.exchange import export_lines

    with open_history(_place(history_file or outer)) as found:
        count = export_lines(found, file)
    click.echo(f"exported {count} run{'s' * (count != 1)} to {file}")


@history.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@place
@click.pass_obj
def import_(outer: str | None, files: tuple[Path, ...], history_file: str | None) -> None:
    """Add the runs of an export, or of a report.json.

    Those already there are left alone.
    """
    from compressor.history.database import open_history
    from compressor.history.exchange import import_file

    with open_history(_place(history_file or outer), write=True) as found:
        for file in files:
            new, known = import_file(found, file)
            click.echo(f"{file}: added {new} run{'s' * (new != 1)}, {known} already there")
