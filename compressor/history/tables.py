"""The tables of a history file, made from the rows' own fields: what is added to a row has its column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import peewee

from compressor.history.rows import ArmRow, Mean, RunRow

Row = TypeVar("Row", RunRow, ArmRow)

_ENDS = ("", "_low", "_high")
_KINDS: dict[str, type[peewee.Field[Any]]] = {
    "str": peewee.TextField,
    "int": peewee.IntegerField,
    "float": peewee.DoubleField,
    "bool": peewee.BooleanField,
}


def _plan(row: type[Any]) -> tuple[tuple[str, str, bool], ...]:
    """Name, kind and whether it may be absent, of each field of a row."""
    parts = ((field.name, *str(field.type).partition(" | ")[::2]) for field in fields(row))
    return tuple((name, kind, bool(rest)) for name, kind, rest in parts)


def _places(plan: tuple[tuple[str, str, bool], ...]) -> tuple[tuple[int, str], ...]:
    """First column and kind of each field."""
    widths = [len(_ENDS) if kind == "Mean" else 1 for _, kind, _ in plan]
    return tuple((sum(widths[:i]), kind) for i, (_, kind, _) in enumerate(plan))


_PLANS = {row: _plan(row) for row in (RunRow, ArmRow)}
_PLACES = {row: _places(plan) for row, plan in _PLANS.items()}
_WIDTHS = {row: places[-1][0] + (len(_ENDS) if places[-1][1] == "Mean" else 1) for row, places in _PLACES.items()}


def _table(name: str, row: type[Any] | None, **more: Any) -> Any:
    """A table; of a mean it keeps the value and both ends of the interval."""
    made: dict[str, Any] = dict(more)
    for field, kind, optional in _PLANS[row] if row else ():
        if kind == "Mean":
            made |= {f"{field}{end}": peewee.DoubleField(null=True) for end in _ENDS}
        elif field not in made:
            made[field] = _KINDS[kind](null=optional)
    return type(name.title(), (peewee.Model,), {**made, "Meta": type("Meta", (), {"table_name": name})})


RUNS = _table(
    "runs",
    RunRow,
    digest=peewee.TextField(unique=True),
    created_utc=peewee.TextField(index=True),
    task=peewee.TextField(index=True),
)
ARMS = _table("arms", ArmRow, run=peewee.ForeignKeyField(RUNS, on_delete="CASCADE"))
RECORDS = _table(
    "records",
    None,
    run=peewee.ForeignKeyField(RUNS, primary_key=True, on_delete="CASCADE"),
    packed=peewee.BlobField(),
)
TABLES = (RUNS, ARMS, RECORDS)


def columns(table: Any, row: type[Any]) -> list[Any]:
    """A table's columns, or those of an alias of it, in the order that :func:`row_of` reads."""
    names = [f"{name}{end}" for name, kind, _ in _PLANS[row] for end in (_ENDS if kind == "Mean" else ("",))]
    if isinstance(table, peewee.ModelAlias):
        # An alias has attributes of its own, which hide columns of the same name.
        return [peewee.FieldAlias.create(table, getattr(table.model, name)) for name in names]
    return [getattr(table, name) for name in names]


def values_of(row: RunRow | ArmRow) -> dict[str, Any]:
    """A row as its table's values."""
    found: dict[str, Any] = {}
    for name, kind, _ in _PLANS[type(row)]:
        value = getattr(row, name)
        if kind == "Mean":
            low, high = (None, None) if value is None or value.ci95 is None else value.ci95
            cells = (None if value is None else value.value, low, high)
            found |= {f"{name}{end}": cell for end, cell in zip(_ENDS, cells, strict=True)}
        else:
            # A lone surrogate, e.g. from a file's name, has no UTF-8.
            found[name] = value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
    return found


def width(row: type[Any]) -> int:
    """How many columns a row takes."""
    return _WIDTHS[row]


def row_of(row: type[Row], cells: Sequence[Any]) -> Row:
    """A row from its table's values, in the order of :func:`columns`."""
    values = []
    for at, kind in _PLACES[row]:
        value = cells[at]
        if value is not None:
            if kind == "Mean":
                low = cells[at + 1]
                value = Mean(value, None if low is None else (low, cells[at + 2]))
            elif kind == "bool":
                value = bool(value)
        values.append(value)
    return row(*values)
