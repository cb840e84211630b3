"""Brings tables that an older version made up to this one: what is missing is added, nothing is ever removed.

It refuses what has no safe answer: a column that every old row would need a value for that nobody can name.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from sqlalchemy import Column, Inspector, MetaData, Table, inspect, literal
from sqlalchemy.engine import Connection

from finery_contracts.errors import Conflict

log = logging.getLogger("finery.db")


def add_what_is_missing(connection: Connection, metadata: MetaData) -> None:
    """Tables, then columns and indexes of the tables that are there.

    Raises:
        Conflict: a new column must have a value, and there is none for the rows of before.
    """
    there = set(inspect(connection).get_table_names())
    metadata.create_all(connection)
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        if table.name not in there:
            continue
        for column in _missing(inspector, table):
            connection.exec_driver_sql(_add_column(connection, table, column))
            log.info("column_added", extra={"table": table.name, "column": column.name})
        known = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                index.create(connection, checkfirst=True)


def _missing(inspector: Inspector, table: Table) -> list[Column[Any]]:
    there = {column["name"] for column in inspector.get_columns(table.name)}
    return [column for column in table.columns if column.name not in there]


def _add_column(connection: Connection, table: Table, column: Column[Any]) -> str:
    dialect = connection.dialect
    names = dialect.identifier_preparer
    kind = column.type.compile(dialect)
    told = f"alter table {names.format_table(table)} add column {names.format_column(column)} {kind}"
    if column.default is not None and column.default.is_scalar:
        value: Any = getattr(column.default, "arg", None)
        text: str = "null"
        with contextlib.suppress(NotImplementedError):
            text = str(literal(value, column.type).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        if text != "null":
            return f"{told} default {text}" + ("" if column.nullable else " not null")
    if column.nullable:
        return told
    raise Conflict(
        f"the table {table.name} was made by an older version of Finery, and its new column {column.name} has no value "
        "for the rows that are there; start with a new database, or go through the version between",
        code="database_too_old",
    )
