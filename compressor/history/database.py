"""The history file: SQLite, one writer at a time, readers beside it, nothing lost between them.

What is listed and the whole records lie in tables apart, so that a list never touches a record. Writers queue up for
SQLite's own lock; its write-ahead log lets everybody else go on reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peewee

from compressor.errors import HistoryError, nearest
from compressor.history.file import WAIT_S, open_file
from compressor.history.rows import ArmRow, RunRow
from compressor.history.tables import ARMS, RECORDS, RUNS, columns, row_of, values_of, width
from compressor.report.text import clean

_FEWEST = 4
_RANK = {"measured": 0, "replayed": 1, "estimated": 2}


@dataclass(frozen=True)
class Entry:
    """What a line of the list shows.

    Attributes:
        run: The run.
        arm: The model that came out of it, or one of those that a benchmark ran.
        before: The arm it is compared with first; ``None`` if with none.
    """

    run: RunRow
    arm: ArmRow
    before: ArmRow | None


@contextmanager
def open_history(path: Path, *, write: bool = False, wait_s: float = WAIT_S) -> Iterator[History]:
    """Open a history; a new one is made if it is to be written.

    Args:
        path: The file.
        write: Whether something will be added or removed.
        wait_s: How long to wait while another process writes.

    Yields:
        The history.

    Raises:
        HistoryError: As :func:`compressor.history.file.open_file`.
    """
    with open_file(path, write=write, wait_s=wait_s) as database:
        yield History(database, path)


class History:
    """An open history; use :func:`open_history`, which also turns SQLite's errors into ours."""

    def __init__(self, database: Any, path: Path) -> None:
        self._database, self.path = database, path

    def add(self, run: RunRow, arms: Sequence[ArmRow], record: str) -> bool:
        """Add a run, whole or not at all.

        Args:
            run: What it was.
            arms: Its arms.
            record: The record's JSON, kept as it is.

        Returns:
            Whether it is new; a run with the same digest is left as it was.
        """
        packed = zlib.compress(record.encode(), 6)
        with self._database.atomic("IMMEDIATE"):
            if self.has(run.digest):
                return False
            number = RUNS.insert(values_of(run)).execute(self._database)
            # SQLite takes so many values at once.
            for some in peewee.chunked([{"run": number, **values_of(arm)} for arm in arms], 100):
                ARMS.insert_many(some).execute(self._database)
            RECORDS.insert(run=number, packed=packed).execute(self._database)
        return True

    def has(self, digest: str) -> bool:
        """Whether a record is there."""
        return bool(RUNS.select().where(RUNS.digest == digest).exists(self._database))

    def entries(
        self,
        *,
        task: str | None = None,
        min_score: float | None = None,
        sort: str = "created",
        limit: int | None = None,
        compared: bool = True,
    ) -> list[Entry]:
        """What is listed.

        Args:
            task: Only models of this task.
            min_score: Only models at least this good: this score or more, or this or less where less is better.
            sort: One of :data:`SORTS`, the best first. Joules of different provenance are never ranked together: the
                measured ones come first, then the replayed, then the estimated.
            limit: Most entries; ``None`` for all.
            compared: Whether to tell what each is compared with; else ``before`` is left out.

        Returns:
            The entries.

        Raises:
            HistoryError: No run has this task.
        """
        before = ARMS.alias()
        shown = [*columns(RUNS, RunRow), *columns(ARMS, ArmRow), *(columns(before, ArmRow) if compared else ())]
        query = RUNS.select(*shown).join(ARMS, on=(ARMS.run == RUNS.id))
        if compared:
            its_own = (before.run == RUNS.id) & (before.position == ARMS.baseline)
            query = query.switch(RUNS).join(before, peewee.JOIN.LEFT_OUTER, on=its_own)
        query = query.where(ARMS.listed, *self._wanted(task, min_score))
        order = (*SORTS[sort](), RUNS.created_utc.desc(), RUNS.id.desc(), ARMS.position)
        return [_entry(row) for row in self._rows(query.order_by(*order).limit(limit))]

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        """What SQLite gives, as it gives it: peewee would look at each of a million cells, and none needs it."""
        rows: list[tuple[Any, ...]] = self._database.execute(query).fetchall()
        return rows

    def count(self, *, task: str | None = None, min_score: float | None = None) -> int:
        """How many entries :meth:`entries` would give without a limit."""
        query = RUNS.select().join(ARMS, on=(ARMS.run == RUNS.id)).where(ARMS.listed, *self._wanted(task, min_score))
        return int(query.count(self._database))

    def arms(self, *, task: str | None = None) -> list[Entry]:
        """Every arm, baselines and stages of compressions too, the newest first; ``before`` is left out."""
        query = (
            RUNS.select(*columns(RUNS, RunRow), *columns(ARMS, ArmRow))
            .join(ARMS, on=(ARMS.run == RUNS.id))
            .where(*self._wanted(task, None))
            .order_by(RUNS.created_utc.desc(), RUNS.id.desc(), ARMS.position)
        )
        return [_entry(row) for row in self._rows(query)]

    def tasks(self) -> list[str]:
        """The names of all tasks."""
        return [
            name for (name,) in RUNS.select(RUNS.task).distinct().order_by(RUNS.task).tuples().execute(self._database)
        ]

    def _wanted(self, task: str | None, min_score: float | None) -> list[Any]:
        conditions: list[Any] = [peewee.Value(1)]
        if task is not None:
            known = self.tasks()
            if task not in known:
                names = [clean(name, 60) for name in known]
                raise HistoryError(f"no run of task '{clean(task, 60)}'", where="--task", mend=nearest(task, names))
            conditions.append(RUNS.task == task)
        if min_score is not None:
            up = ARMS.higher_is_better & (ARMS.score >= min_score)
            conditions.append(up | (~ARMS.higher_is_better & (ARMS.score <= min_score)))
        return conditions

    def find(self, start: str) -> RunRow:
        """The run whose digest starts so.

        Args:
            start: At least four of its characters.

        Returns:
            The run.

        Raises:
            HistoryError: No run or several runs start so.
        """
        text = start.strip().lower()
        if len(text) < _FEWEST or set(text) - set("0123456789abcdef"):
            raise HistoryError(f"'{clean(start, 60)}' is no run", mend="give the ID that 'compress history' shows")
        query = RUNS.select(*columns(RUNS, RunRow)).where(RUNS.digest.between(text, f"{text}g")).limit(2)
        found = self._rows(query)
        if not found:
            raise HistoryError(f"no run '{start}'", where=self.path, mend="'compress history' shows the IDs")
        if len(found) > 1:
            raise HistoryError(f"several runs start with '{start}'", where=self.path, mend="give more of the ID")
        return row_of(RunRow, found[0])

    def record(self, digest: str) -> str:
        """The record's JSON, as it was added.

        Args:
            digest: The whole digest.

        Returns:
            The JSON.

        Raises:
            HistoryError: There is no such run, or its record is damaged.
        """
        query = RECORDS.select(RECORDS.packed).join(RUNS, on=(RECORDS.run == RUNS.id)).where(RUNS.digest == digest)
        found = self._rows(query)
        if not found:
            raise HistoryError(f"no run '{digest[:12]}'", where=self.path)
        try:
            return zlib.decompress(found[0][0]).decode()
        except (zlib.error, UnicodeDecodeError):
            raise HistoryError(
                f"the record of run {digest[:12]} is damaged", where=self.path, mend="remove it, or import it again"
            ) from None

    def runs(self) -> list[RunRow]:
        """Every run, the oldest first."""
        query = RUNS.select(*columns(RUNS, RunRow)).order_by(RUNS.created_utc, RUNS.id)
        return [row_of(RunRow, row) for row in self._rows(query)]

    def remove(self, digest: str) -> None:
        """Remove a run with its arms and its record."""
        with self._database.atomic("IMMEDIATE"):
            RUNS.delete().where(RUNS.digest == digest).execute(self._database)


def _entry(row: tuple[Any, ...]) -> Entry:
    run, arm = width(RunRow), width(ArmRow)
    before = row[run + arm :]
    return Entry(
        row_of(RunRow, row[:run]),
        row_of(ArmRow, row[run : run + arm]),
        row_of(ArmRow, before) if before and before[0] is not None else None,
    )


# --- the order of the list -----------------------------------------------------------------------------------------


def _by_joules(provenance: Any, joules: Any) -> list[Any]:
    rank = peewee.Case(provenance, tuple(_RANK.items()), len(_RANK))
    return [rank, joules.asc(nulls="LAST")]


def _by_score() -> list[Any]:
    best = peewee.Case(None, ((ARMS.higher_is_better, ARMS.score * -1),), ARMS.score)
    # Scores of different metrics and tasks have no order among each other.
    return [RUNS.task, RUNS.synthetic, RUNS.metric, ARMS.score.is_null(), best]


SORTS: Mapping[str, Any] = {
    "created": list,
    "model": lambda: [ARMS.model],
    "task": lambda: [RUNS.task],
    "score": _by_score,
    "energy": lambda: _by_joules(ARMS.provenance, ARMS.energy_j),
    "cpu-time": lambda: [ARMS.cpu_s.asc(nulls="LAST")],
    "compress-energy": lambda: _by_joules(RUNS.compress_provenance, RUNS.compress_j),
    "carbon": lambda: _by_joules(ARMS.provenance, ARMS.carbon_g),
    "size": lambda: [ARMS.size_bytes],
}
"""What a list can be sorted by, the best first."""
