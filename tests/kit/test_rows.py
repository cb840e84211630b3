"""Many rows in one statement: what goes in comes out, on both databases, over the edge of a statement, too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, select
from sqlalchemy.exc import IntegrityError

from finery_kit.columns import UtcText
from finery_kit.db import Database, Transaction
from finery_kit.rows import AT_ONCE, insert_rows
from tests.kit.delivery_rig import opened

METADATA = MetaData()
THINGS = Table(
    "thing", METADATA, Column("id", String, primary_key=True), Column("order", Integer), Column("large", BigInteger),
    Column("exact", Float), Column("yes", Boolean), Column("body", LargeBinary), Column("told", JSON),
    Column("at", UtcText), Column("why", String, nullable=True),
)  # fmt: skip


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url, METADATA) as made:
        yield made


def thing(number: int, **other: Any) -> dict[str, Any]:
    return {
        "id": f"thing-{number:05d}", "order": number, "large": 2**62 + number, "exact": 0.1 * number,
        "yes": number % 2 == 0, "body": bytes([0, 255, number % 256]), "told": {"50 %": [number, None, "ä"]},
        "at": datetime(2026, 1, 1, tzinfo=UTC), "why": "it's %s, :so ?" if number % 3 else None,
    } | other  # fmt: skip


async def stored(database: Database) -> list[dict[str, Any]]:
    query = select(THINGS).order_by(THINGS.c.id)
    return await database.read(lambda session: [dict(row._mapping) for row in session.connection().execute(query)])


def adding(rows: list[dict[str, Any]], **how: Any) -> Any:
    def add(tx: Transaction) -> None:
        insert_rows(tx.session.connection(), THINGS, rows, **how)

    return add


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE + 7])
async def test_what_goes_in_comes_out(database: Database, count: int) -> None:
    rows = [thing(number) for number in range(count)]

    await database.write(adding(rows))

    assert await stored(database) == rows


async def test_a_row_that_is_known_is_refused_left_or_replaced(database: Database) -> None:
    old, new = [thing(1), thing(2)], [thing(2, why="new"), thing(3)]
    await database.write(adding(old))

    with pytest.raises(IntegrityError):
        await database.write(adding(new))
    assert await stored(database) == old

    await database.write(adding(new, known="leave"))
    assert await stored(database) == [*old, thing(3)]

    await database.write(adding(new, known="replace"))
    assert await stored(database) == [thing(1), *new]


@pytest.mark.parametrize("told", ["half \ud83d of a pair", [float("inf"), -0.0], {"a": None}, None, "ä\0"], ids=ascii)
async def test_json_on_sqlite_takes_what_python_takes(tmp_path: Path, told: Any) -> None:
    with opened(f"sqlite:///{tmp_path / 'thing.sqlite'}", METADATA) as database:
        await database.write(adding([thing(1, told=told)]))

        assert await stored(database) == [thing(1, told=told)]
