"""Recording a run, and moving histories between machines as JSON lines.

A line holds the record as it was written and where its files were. Adding it again changes nothing: a run is known by
the digest of its record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.errors import HistoryError
from compressor.history.database import History, open_history
from compressor.history.file import history_place
from compressor.history.rows import digest_of, rows_of
from compressor.results import BenchRecord, Report
from compressor.store.records import dump_report, parse_measured
from compressor.store.runfolder import require_place

LINE_VERSION = 1
"""Of a line of the exchange format."""


def record_run(record: Report | BenchRecord, folder: Path | None, named: str | None = None) -> str | None:
    """Add a run to the history.

    Args:
        record: What it found.
        folder: Where its files are.
        named: What ``--history`` says; ``None`` for the environment variable or the user's data folder.

    Returns:
        The run's digest; ``None`` if the history is switched off.

    Raises:
        HistoryError: The history cannot be written.
    """
    place = history_place(named)
    if place is None:
        return None
    text = dump_report(record)
    digest = digest_of(text)
    run, arms = rows_of(record, digest, None if folder is None else str(folder.absolute()))
    with open_history(place, write=True) as history:
        history.add(run, arms, text)
    return digest


def export_lines(history: History, target: Path) -> int:
    """Write every run as a line of JSON; the file is there whole or not at all.

    Args:
        history: What to export.
        target: The file.

    Returns:
        How many runs were written.

    Raises:
        CompressorError: The file cannot be written, or a record is damaged.
    """
    require_place(target)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    count = 0
    try:
        with beside.open("w", encoding="utf-8") as file:
            for run in history.runs():
                line = {"history": LINE_VERSION, "folder": run.folder, "record": json.loads(history.record(run.digest))}
                file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
                count += 1
        beside.replace(target)
    except OSError as error:
        raise HistoryError(f"cannot be written: {error.strerror}", where=target) from None
    finally:
        beside.unlink(missing_ok=True)
    return count


def import_file(history: History, source: Path) -> tuple[int, int]:
    """Add the runs of an export, or of one report.

    Args:
        history: Where to add them.
        source: JSON lines of :func:`export_lines`; or a ``report.json`` or what ``compress bench --out`` wrote.

    Returns:
        How many were new, and how many were known.

    Raises:
        CompressorError: A line cannot be read or believed. The lines before it are added, and once it is mended the
            same import goes on from there.
    """
    new = known = 0
    for where, folder, text in _records(source):
        digest = digest_of(text)
        if history.has(digest):
            known += 1
            continue
        run, arms = rows_of(parse_measured(text, where), digest, folder)
        # Another process may have added it meanwhile.
        added = history.add(run, arms, text)
        new, known = new + added, known + (not added)
    if not new + known:
        raise HistoryError("holds no run", where=source)
    return new, known


def _records(source: Path) -> Iterator[tuple[str, str | None, str]]:
    """Place, folder and JSON of every record of a file."""
    try:
        with source.open(encoding="utf-8") as file:
            first = file.readline()
            if first.strip() and "history" not in _object(first):
                # A report over many lines.
                text = first + file.read()
                parse_measured(text, source)
                yield str(source), str(source.absolute().parent), text
                return
            number, line = 1, first
            while line:
                if line.strip():
                    yield _line(line, f"{source}:{number}")
                number, line = number + 1, file.readline()
    except FileNotFoundError:
        raise HistoryError("no such file", where=source, mend="check the path") from None
    except OSError as error:
        raise HistoryError(f"cannot be read: {error.strerror}", where=source) from None
    except UnicodeDecodeError:
        raise HistoryError("is not text, so not an export", where=source) from None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _line(text: str, where: str) -> tuple[str, str | None, str]:
    line = _object(text)
    if not isinstance(line.get("record"), dict) or type(line.get("history")) is not int:
        what = "is cut off or not a line of an export"
        raise HistoryError(what, where=where, mend="export it again")
    if line["history"] > LINE_VERSION:
        raise HistoryError(
            f"written by a newer compressor (line version {line['history']}, this one reads up to {LINE_VERSION})",
            where=where,
            mend="upgrade",
        )
    folder = line.get("folder")
    return where, folder if isinstance(folder, str) else None, json.dumps(line["record"])
