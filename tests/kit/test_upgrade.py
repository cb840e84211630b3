"""A database of an older version is brought up to this one; what was in it stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Boolean, Column, Index, Integer, MetaData, String, Table, create_engine, inspect, text

from finery_contracts.errors import Conflict
from finery_kit.upgrade import add_what_is_missing


def things(*more: Column[Any], index: str | None = None) -> MetaData:
    metadata = MetaData()
    table = Table("things", metadata, Column("id", Integer, primary_key=True), *more)
    if index:
        Index(f"ix_things_{index}", table.c[index])
    return metadata


def test_columns_with_a_default_and_indexes_are_added_and_old_rows_have_the_default(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'old.sqlite'}")
    newer: Callable[[], MetaData] = lambda: things(  # noqa: E731
        Column("name", String, default="it's old", nullable=False), Column("done", Boolean, default=False),
        Column("note", String, nullable=True), Column("count", Integer, default=7, nullable=False), index="name",
    )  # fmt: skip
    with engine.begin() as connection:
        add_what_is_missing(connection, things())
        connection.execute(text("insert into things (id) values (1)"))
    for _ in range(2):
        with engine.begin() as connection:
            add_what_is_missing(connection, newer())

    with engine.begin() as connection:
        rows = connection.execute(text("select id, name, done, note, count from things")).all()
        indexes = [index["name"] for index in inspect(connection).get_indexes("things")]
    engine.dispose()
    assert [tuple(row) for row in rows] == [(1, "it's old", 0, None, 7)]
    assert indexes == ["ix_things_name"]


def test_a_column_without_a_value_for_old_rows_stops_the_start(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'old.sqlite'}")
    with engine.begin() as connection:
        add_what_is_missing(connection, things())

        with pytest.raises(Conflict, match=r"things.*owner"):
            add_what_is_missing(connection, things(Column("owner", String, nullable=False)))
    engine.dispose()
