"""Old inbox rows are folded into one line a noun, and a fact that was applied stays applied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlmodel import select

from finery_contracts.retention import Retention
from finery_kit.db import Database, Transaction
from finery_kit.delivery_tables import DELIVERY_METADATA, InboxFloorRow, InboxRow
from finery_kit.inbox import Key, fold_old_rows, remember
from finery_kit.testing import VirtualClock
from tests.kit.delivery_rig import opened


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def database(database_url: str, clock: VirtualClock) -> Iterator[Database]:
    with opened(database_url, DELIVERY_METADATA, clock=clock) as made:
        yield made


def fold(tx: Transaction) -> bool:
    return fold_old_rows(tx, Retention(inbox_days=60))


async def test_after_folding_nothing_old_is_applied_again_and_what_is_newer_is(
    database: Database, clock: VirtualClock
) -> None:
    old: list[Key] = [("task", "t1", 1), ("task", "t1", 2), ("task", "t1", 5), ("task", "t2", 1)]
    await database.write(lambda tx: remember(tx, old))
    clock.advance(59 * 86_400)
    await database.write(fold)
    early = await database.read(lambda s: len(list(s.exec(select(InboxRow)))))
    await database.write(lambda tx: remember(tx, [("task", "t1", 7)]))
    clock.advance(2 * 86_400)
    await database.write(fold)
    kept = await database.read(lambda s: [(row.noun_id, row.version) for row in s.exec(select(InboxRow))])
    floors = await database.read(lambda s: {(r.noun_id, r.version) for r in s.exec(select(InboxFloorRow))})
    again = await database.write(
        lambda tx: remember(tx, [*old, ("task", "t1", 6), ("task", "t1", 7), ("task", "t3", 1)])
    )

    assert early == 4
    assert kept == [("t1", 7)]
    assert floors == {("t1", 5), ("t2", 1)}
    assert again == {("task", "t1", 6), ("task", "t3", 1)}


async def test_a_key_that_comes_twice_at_once_is_new_once_and_never_again(database: Database) -> None:
    twice: list[Key] = [("task", "t1", 1), ("task", "t1", 1), ("task", 'it\'s "t2"', 2)]

    first = await database.write(lambda tx: remember(tx, twice))
    second = await database.write(lambda tx: remember(tx, [*twice, ("task", "t1", 2)]))
    none = await database.write(lambda tx: remember(tx, []))

    assert first == set(twice)
    assert second == {("task", "t1", 2)}
    assert none == set()
