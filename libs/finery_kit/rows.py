"""Many rows in one statement, on SQLite and on Postgres.

The drivers' own ``executemany`` runs a statement for each row, and on SQLite gives up the interpreter's lock for each:
beside a busy event loop a thousand rows waited for it a thousand times (measured: 60 µs of processor time a row instead
of 8). It refuses nothing and returns nothing: what a row may be is the table's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, cast

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite

AT_ONCE, PARAMETERS = 500, 30_000
"""Rows of one statement; SQLite takes 32,766 parameters."""
Known = Literal["refuse", "leave", "replace"]


def insert_rows(
    connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]], *, known: Known = "refuse"
) -> None:
    """Insert rows that all name the same columns, two at least. ``known``: what to do with one whose key is there."""
    if not rows:
        return
    names = tuple(rows[0])
    convert = _converters(table, names, connection.dialect.name)
    taken = cast("Callable[[Mapping[str, Any]], tuple[Any, ...]]", itemgetter(*names))
    size = min(AT_ONCE, PARAMETERS // len(names))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        values: list[Any] = [value for row in map(taken, some) for value in row]
        for place, convert_one in convert:
            values[place :: len(names)] = map(convert_one, values[place :: len(names)])
        statement = _statement(table, names, len(some), known, connection.dialect.name)
        connection.exec_driver_sql(statement, tuple(values))


@lru_cache(maxsize=256)
def _statement(table: Table, names: tuple[str, ...], rows: int, known: Known, dialect: str) -> str:
    mark = "%s" if dialect == "postgresql" else "?"
    row = f"({', '.join([mark] * len(names))})"
    end = {"refuse": "", "leave": " on conflict do nothing", "replace": _replacing(table, names)}[known]
    return f'insert into "{table.name}" ({_listed(names)}) values {", ".join([row] * rows)}{end}'


def _replacing(table: Table, names: Sequence[str]) -> str:
    key = [column.name for column in table.primary_key]
    kept = ", ".join(f'"{name}" = excluded."{name}"' for name in names if name not in key)
    return f" on conflict ({_listed(key)}) do update set {kept}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@lru_cache(maxsize=256)
def _converters(table: Table, names: tuple[str, ...], dialect: str) -> list[tuple[int, Callable[[Any], Any]]]:
    """What stands between a value and the driver, by the place of the column."""
    made: Dialect = postgresql.psycopg.dialect() if dialect == "postgresql" else sqlite.dialect(json_serializer=_json)
    found = ((place, table.c[name].type.dialect_impl(made)) for place, name in enumerate(names))
    processors = ((place, kind.bind_processor(made)) for place, kind in found)
    return [(place, processor) for place, processor in processors if processor is not None]


def _json(value: Any) -> str:
    """As ``json.dumps``, which takes six times as long for a few headers."""
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except PydanticSerializationError:  # half a surrogate pair
        return json.dumps(value)


__all__ = ["insert_rows"]
