"""The last step of a run: the chosen model in its place, and the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from compressor.pipeline.stages import Made
from compressor.report.html import render_html
from compressor.report.markdown import render_markdown
from compressor.results import Report
from compressor.store.records import dump_report
from compressor.store.runfolder import write_beside


def deliver(folder: Path, chosen: Made, report: Report, *, stages: Sequence[str]) -> None:
    """Put the chosen model, with what lies beside it, in its place and write the report.

    Args:
        folder: The run's folder.
        chosen: The stage whose model is the result.
        report: What was found.
        stages: Names of the stages whose own folders stay.
    """
    place = (folder / chosen.artifact.path).parent
    for file in [file for file in place.rglob("*") if file.is_file()]:
        target = folder / file.relative_to(place)
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            # A second name, not a second copy; the stage's own name goes with its folder below.
            os.link(file, target)
        except OSError:  # some file systems have no second names, e.g. exFAT and many network shares
            shutil.copyfile(file, target)
    write_beside(folder / "report.json", dump_report(report))
    write_beside(folder / "report.md", render_markdown(report))
    write_beside(folder / "report.html", render_html(report))
    shutil.rmtree(folder / "work", ignore_errors=True)
    for own in (folder / "stages").iterdir():
        if own.name not in stages:  # a stage that failed, with other methods, may have left one
            shutil.rmtree(own)
    if not stages:
        (folder / "stages").rmdir()
