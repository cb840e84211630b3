"""A request under a key is carried out once: again, at the same time, after a fault, with another body, a day later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio
from sqlmodel import select

from finery_contracts.access import ProjectView
from finery_contracts.errors import InvalidRequest, NotFound, Unprocessable
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, InboxRow
from finery_kit.delivery_tables import IdempotencyRow
from finery_kit.idempotency import Asked, answered, check_key, digest_of, forget, once, release, reserve, settle
from finery_kit.testing import VirtualClock

ASKED = Asked("prj_1", "k-1", digest_of("POST", "/things", {"name": "a"}))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest_asyncio.fixture
async def database(database_url: str, clock: VirtualClock) -> AsyncIterator[Database]:
    opened = Database(database_url, DELIVERY_METADATA, clock=clock)
    opened.open()
    yield opened
    opened.close()


def make(tx: Transaction) -> ProjectView:
    """An effect that anybody can count, and an answer that is another one each time."""
    number = len(list(tx.session.exec(select(InboxRow)))) + 1
    tx.session.add(InboxRow(noun="thing", noun_id=str(number), version=1))
    return ProjectView(id=f"prj_{number}", name="a", version=number, created_at=tx.now)


async def effects(database: Database) -> int:
    return len(await database.read(lambda session: list(session.exec(select(InboxRow)))))


async def test_the_same_request_is_carried_out_once_and_answered_alike(database: Database, clock: VirtualClock) -> None:
    first = await database.write(lambda tx: once(tx, ASKED, ProjectView, make))
    clock.advance(60)
    again = await database.write(lambda tx: once(tx, ASKED, ProjectView, make))

    assert again == first
    assert await effects(database) == 1
    assert ProjectView.model_validate_json(await database.read(lambda s: answered(s, ASKED)) or "") == first


async def test_two_hundred_at_once_make_one(database: Database) -> None:
    answers = await asyncio.gather(*(database.write(lambda tx: once(tx, ASKED, ProjectView, make)) for _ in range(200)))
    assert len({answer.id for answer in answers}) == 1
    assert await effects(database) == 1


async def test_another_request_under_the_key_is_refused_and_changes_nothing(database: Database) -> None:
    await database.write(lambda tx: once(tx, ASKED, ProjectView, make))
    other = replace(ASKED, digest=digest_of("POST", "/things", {"name": "b"}))

    with pytest.raises(Unprocessable) as refused:
        await database.write(lambda tx: once(tx, other, ProjectView, make))
    with pytest.raises(Unprocessable):
        await database.read(lambda session: answered(session, other))

    assert refused.value.error_code == "idempotency_key_reused"
    assert await effects(database) == 1


async def test_a_key_belongs_to_its_project(database: Database) -> None:
    for project in ("prj_1", "prj_2", "prj_1"):
        await database.write(lambda tx, p=project: once(tx, replace(ASKED, project=p), ProjectView, make))
    assert await effects(database) == 2


async def test_a_request_that_failed_leaves_no_key(database: Database) -> None:
    def fail(tx: Transaction) -> ProjectView:
        make(tx)
        raise NotFound("no")

    with pytest.raises(NotFound):
        await database.write(lambda tx: once(tx, ASKED, ProjectView, fail))
    assert await database.read(lambda session: answered(session, ASKED)) is None

    made = await database.write(lambda tx: once(tx, replace(ASKED, digest="another"), ProjectView, make))
    assert (made.version, await effects(database)) == (1, 1)


async def test_without_a_key_each_request_counts(database: Database) -> None:
    for _ in range(2):
        await database.write(lambda tx: once(tx, None, ProjectView, make))
    assert await effects(database) == 2


async def test_a_key_whose_answer_is_not_known_yet_lets_the_same_request_through_and_no_other(
    database: Database,
) -> None:
    assert await database.write(lambda tx: reserve(tx, ASKED)) is None
    assert await database.write(lambda tx: reserve(tx, ASKED)) is None
    with pytest.raises(Unprocessable):
        await database.write(lambda tx: reserve(tx, replace(ASKED, digest="another")))

    await database.write(lambda tx: settle(tx, ASKED, '{"a": 1}'))
    await database.write(lambda tx: release(tx, ASKED))  # too late: it was carried out
    assert await database.write(lambda tx: reserve(tx, ASKED)) == '{"a": 1}'


async def test_a_key_that_was_given_back_is_free(database: Database) -> None:
    await database.write(lambda tx: reserve(tx, ASKED))
    await database.write(lambda tx: release(tx, ASKED))
    await database.write(lambda tx: once(tx, replace(ASKED, digest="another"), ProjectView, make))
    assert await effects(database) == 1


async def test_keys_are_forgotten_when_their_time_is_over(database: Database, clock: VirtualClock) -> None:
    await database.write(lambda tx: once(tx, ASKED, ProjectView, make))
    clock.advance(3600 * 20)
    await database.write(lambda tx: once(tx, replace(ASKED, key="k-2"), ProjectView, make))
    clock.advance(3600 * 5)

    more = await database.write(lambda tx: forget(tx, tx.now - timedelta(hours=24)))

    left = await database.read(lambda session: list(session.exec(select(IdempotencyRow))))
    assert (more, [row.key_hash for row in left]) == (False, [replace(ASKED, key="k-2").key_hash])
    await database.write(lambda tx: once(tx, replace(ASKED, digest="another"), ProjectView, make))
    assert await effects(database) == 3


async def test_the_text_of_a_key_is_not_kept(database: Database) -> None:
    await database.write(lambda tx: once(tx, replace(ASKED, key="a-telling-name"), ProjectView, make))
    rows = await database.read(lambda session: list(session.exec(select(IdempotencyRow))))
    assert "a-telling-name" not in str([row.model_dump() for row in rows])
    assert "a-telling-name" not in repr(replace(ASKED, key="a-telling-name"))


@pytest.mark.parametrize("key", ["a", "x" * 255, "8e03978e-40d5-43e8-bc93-6894a57f9324", "with space ~!"])
def test_printable_keys_are_taken(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "a\x00", "grün", "a\x7fb", "\t"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_key(key)
    assert refused.value.error_code == "idempotency_key_invalid"


def test_a_digest_means_what_is_said_not_how_it_is_written() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert len({digest_of(*parts) for parts in [({"a": 1},), ({"a": "1"},), ({"a": 1.0},), ("a", 1), ("a1",)]}) == 5
