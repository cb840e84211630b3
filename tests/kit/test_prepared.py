"""Statements that are text once and for all: they say the same as SQLAlchemy's own, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import (  # fmt: skip
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    func,
    select,
    update,
)

from finery_kit.columns import UtcText
from finery_kit.db import Database
from finery_kit.prepared import Prepared, among
from finery_kit.rows import insert_rows
from tests.kit.delivery_rig import opened

METADATA = MetaData()
THINGS = Table(
    "thing", METADATA, Column("id", String, primary_key=True), Column("order", Integer), Column("large", BigInteger),
    Column("yes", Boolean), Column("body", LargeBinary, nullable=False), Column("told", JSON), Column("at", UtcText),
    Column("why", String), Column("exact", Float), Column("maybe", LargeBinary),
)  # fmt: skip
WHOLE = ("id", "order", "large", "yes", "body", "told", "at", "why")
IDS = ["plain", "it's", 'a "quoted" one', "50 % ?", ":so %s", "back\\slash", "ä€😀", "", "[1, 2]", "{}", "new\nline"]
BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)

ALL = Prepared(select(*(THINGS.c[name] for name in WHOLE)).order_by(THINGS.c.order))
SOME = Prepared(select(THINGS.c.id).where(among(THINGS.c.id, "ids")).order_by(THINGS.c.order))
OTHERS = Prepared(select(THINGS.c.id).where(~among(THINGS.c.id, "ids")).order_by(THINGS.c.order))
FIRST = Prepared(
    select(THINGS.c.id).where(THINGS.c.at >= bindparam("since")).order_by(THINGS.c.order).limit(bindparam("most"))
)
LAST = Prepared(select(func.max(THINGS.c.at).label("at")))
MOVE = Prepared(
    update(THINGS).where(among(THINGS.c.id, "ids")).values(at=bindparam("now"), order=THINGS.c.order + 100, why=None)
)


def thing(number: int) -> dict[str, Any]:
    return {
        "id": IDS[number], "order": number, "large": 2**62 + number, "yes": number % 2 == 0,
        "body": bytes([0, 255, number, 34, 92]) * number, "told": {"50 %": [number, None, IDS[number]]},
        "at": BEGAN + timedelta(seconds=number), "why": IDS[number] if number % 3 else None,
    }  # fmt: skip


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    with opened(database_url, METADATA) as made:
        rows = [thing(number) for number in range(len(IDS))]
        await made.write(lambda tx: insert_rows(tx.session.connection(), THINGS, rows))
        yield made


async def rows_of(database: Database, statement: Prepared, **values: Any) -> list[list[Any]]:
    return await database.write(lambda tx: statement.rows(tx.session.connection(), **values))


async def test_what_was_stored_is_read_in_order(database: Database) -> None:
    found = await rows_of(database, ALL)

    assert [dict(zip(WHOLE, row, strict=True)) for row in found] == [thing(number) for number in range(len(IDS))]


@pytest.mark.parametrize("ids", [[], ["plain"], IDS, ["unknown", "", "plain"], ["plain", "plain"]], ids=len)
async def test_a_list_is_one_parameter_whatever_is_in_it(database: Database, ids: list[str]) -> None:
    inside, outside = await rows_of(database, SOME, ids=ids), await rows_of(database, OTHERS, ids=ids)

    assert inside == [[known] for known in IDS if known in ids]
    assert outside == [[known] for known in IDS if known not in ids]


async def test_values_go_in_and_come_out_as_their_columns_say(database: Database) -> None:
    since = BEGAN + timedelta(seconds=3)

    assert await rows_of(database, FIRST, since=since, most=2) == [[IDS[3]], [IDS[4]]]
    assert await rows_of(database, LAST) == [[BEGAN + timedelta(seconds=len(IDS) - 1)]]


async def test_a_change_says_how_many_rows_it_met(database: Database) -> None:
    now, ids = BEGAN + timedelta(days=1), ["plain", "it's", "unknown"]

    met = await database.write(lambda tx: MOVE.execute(tx.session.connection(), ids=ids, now=now).rowcount)

    assert met == 2
    after = {row[0]: (row[1], row[6], row[7]) for row in await rows_of(database, ALL)}
    assert after["plain"] == (100, now, None)
    assert after["it's"] == (101, now, None)
    assert after["50 % ?"] == (3, BEGAN + timedelta(seconds=3), None)


@pytest.mark.parametrize("name", ["exact", "maybe"])
async def test_what_would_come_back_as_something_else_is_refused(database: Database, name: str) -> None:
    with pytest.raises(AssertionError, match=f"{name} cannot be read in one piece"):
        await rows_of(database, Prepared(select(THINGS.c[name])))


async def test_a_list_that_is_rendered_anew_each_time_is_refused(database: Database) -> None:
    with pytest.raises(AssertionError, match="a list is not text"):
        await rows_of(database, Prepared(select(THINGS.c.id).where(THINGS.c.id.in_(["a", "b"]))))
