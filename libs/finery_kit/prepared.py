"""Statements that run thousands of times: compiled once for a dialect, executed as text, read in one piece.

SQLAlchemy renders a list of values anew each time, and SQLite's driver gives up the interpreter's lock for each row it
reads: beside a busy event loop both cost more than the statement. It refuses what cannot be text once and for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, Float, LargeBinary, Select, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import ARRAY, String, TypeDecorator

_MADE: dict[str, Callable[[], Dialect]] = {"postgresql": postgresql.psycopg.dialect, "sqlite": sqlite.dialect}


class _Listed(TypeDecorator[list[str]]):
    """A list of texts in one parameter: an array on Postgres, JSON on SQLite."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Per dialect."""
        made: Any = ARRAY(String()) if dialect.name == "postgresql" else String()
        return dialect.type_descriptor(made)

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        """To the database."""
        return list(value or ()) if dialect.name == "postgresql" else json.dumps(list(value or ()))


def among(column: Any, name: str) -> Any:
    """Whether a column of text is among the values of a parameter; the statement is the same for any number of them."""
    return column.in_(select(_Each(bindparam(name, type_=_Listed()))))


class _Each(FunctionElement[str]):
    """One row for each text of a list."""

    inherit_cache = True


@compiles(_Each, "sqlite")
def _each_on_sqlite(element: _Each, compiler: SQLCompiler, **more: Any) -> str:
    return f"value from json_each({compiler.process(element.clauses, **more)})"


@compiles(_Each, "postgresql")
def _each_on_postgres(element: _Each, compiler: SQLCompiler, **more: Any) -> str:
    return f"unnest({compiler.process(element.clauses, **more)})"


class Prepared:
    """A statement with named parameters, each of a known type. It reads text, whole numbers, bytes, and JSON."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._texts = dict[str, _Text]()

    def execute(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Run it. What is read comes as the driver has it."""
        text = self._text(connection.dialect.name)
        return connection.exec_driver_sql(text.changing, text.parameters(values))

    def rows(self, connection: Connection, **values: Any) -> list[list[Any]]:
        """What it selects, converted as the columns say."""
        text = self._text(connection.dialect.name)
        found = connection.exec_driver_sql(text.reading, text.parameters(values))
        rows = json.loads(found.scalar_one()) if text.packed else [list(row) for row in found.all()]
        for place, convert in text.results:
            for row in rows:
                row[place] = convert(row[place])
        return rows

    def _text(self, dialect: str) -> _Text:
        if dialect not in self._texts:
            self._texts[dialect] = _Text(self._statement, dialect)
        return self._texts[dialect]


class _Text:
    """A statement in one dialect."""

    def __init__(self, statement: Any, dialect: str) -> None:
        made = _MADE[dialect]()
        compiled: Any = statement.compile(dialect=made)
        self.changing = self.reading = str(compiled)
        assert "POSTCOMPILE" not in self.changing, "a list is not text; use among"
        self.packed = dialect == "sqlite" and isinstance(statement, Select)
        self._names: list[str] | None = compiled.positiontup
        self._known = dict(compiled.params)
        self._binds = _processors({name: bind.type for name, bind in compiled.binds.items()}, made)
        columns = list(statement.selected_columns) if isinstance(statement, Select) else []
        for column in columns:  # SQLite's JSON rounds the one and has no word for the other
            unfit = isinstance(column.type, Float) or (isinstance(column.type, LargeBinary) and column.nullable)
            assert not unfit, f"{column.name} cannot be read in one piece"
        self.results = [(place, convert) for place, column in enumerate(columns)
                        if (convert := _reader(column.type, made, packed=self.packed)) is not None]  # fmt: skip
        if self.packed:
            shown = ", ".join(
                f'hex("{column.name}")' if isinstance(column.type, LargeBinary) else f'"{column.name}"'
                for column in columns
            )
            self.reading = f"select json_group_array(json_array({shown})) from ({self.changing})"

    def parameters(self, values: dict[str, Any]) -> Any:
        known = self._known | values
        for name, convert in self._binds:
            known[name] = convert(known[name])
        return known if self._names is None else tuple([known[name] for name in self._names])


def _processors(types: dict[str, Any], made: Dialect) -> list[tuple[str, Callable[[Any], Any]]]:
    found = ((name, kind.dialect_impl(made).bind_processor(made)) for name, kind in types.items())
    return [(name, convert) for name, convert in found if convert is not None]


def _reader(kind: Any, made: Dialect, *, packed: bool) -> Callable[[Any], Any] | None:
    if isinstance(kind, LargeBinary):
        return bytes.fromhex if packed else None
    return kind.dialect_impl(made).result_processor(made, None)


__all__ = ["Prepared", "among"]
