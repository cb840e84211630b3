"""Outbox, relay and inbox against a real broker, which is killed and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from sqlmodel import select

from finery_contracts.access import ProjectCreated, ProjectView
from finery_contracts.envelope import Event
from finery_contracts.errors import TooLarge, Unavailable
from finery_contracts.ids import new_id
from finery_contracts.streams import EVENTS, MAX_FACT_BYTES
from finery_kit import relay as relaying
from finery_kit.bus import apply_once
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow, Relay, emit, events_since
from tests.kit.delivery_rig import Broker, connected, opened, outbox, say, stored, until_published


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "nats")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url, DELIVERY_METADATA) as made:
        yield made


async def test_a_fact_is_stored_only_with_the_change_it_tells_of(database: Database):
    def change_mind(tx: Transaction) -> None:
        say(tx, "proj_1", 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(change_mind)
    await database.write(lambda tx: say(tx, "proj_2", 1))

    assert [row.noun_id for row in await outbox(database)] == ["proj_2"]


async def test_facts_are_published_in_order_once_and_their_rows_are_kept_and_marked(database: Database, client: Client):
    def three_facts(tx: Transaction) -> None:
        for version in (1, 2, 3):
            for project in ("proj_1", "proj_2"):
                say(tx, project, version)

    await database.write(three_facts)
    relay = Relay(database, client.jetstream(), "test")

    assert await relay.publish_waiting() is False
    rows = await outbox(database)

    assert [row.published for row in rows] == [True] * 6
    assert await stored(client) == [(row.noun_id, row.noun_version, row.event_id) for row in rows]


async def test_the_bytes_on_the_bus_are_the_bytes_of_the_outbox(database: Database, client: Client):
    await database.write(lambda tx: say(tx, "proj_1", 1))
    await Relay(database, client.jetstream(), "test").publish_waiting()

    (row,) = await outbox(database)
    message = await client.jetstream().get_last_msg(EVENTS.name, row.bus_subject)

    assert message.data == row.body


async def test_a_fact_whose_mark_was_lost_is_not_on_the_bus_twice(database: Database, client: Client):
    await database.write(lambda tx: say(tx, "proj_1", 1))
    relay = Relay(database, client.jetstream(), "test")
    await relay.publish_waiting()

    def forget(tx: Transaction) -> None:
        for row in tx.session.exec(select(OutboxRow)):
            row.published = False

    await database.write(forget)
    await relay.publish_waiting()

    assert len(await stored(client)) == 1
    assert [row.published for row in await outbox(database)] == [True]


async def test_more_than_a_page_goes_out_without_waiting_for_the_next_poll(
    database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relaying, "POLL_S", 3600)
    relay = Relay(database, client.jetstream(), "test")
    running = asyncio.create_task(relay.run())

    def many(tx: Transaction) -> None:
        for n in range(relaying.PAGE + 5):
            say(tx, f"proj_{n}", 1)
        tx.after_commit.append(relay.wake)

    await database.write(many)
    await asyncio.wait_for(until_published(database), 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    assert len(await stored(client)) == relaying.PAGE + 5


async def test_a_fact_that_no_message_can_carry_is_refused_with_the_change_it_tells_of(database: Database):
    def change_and_say(tx: Transaction, size: int) -> None:
        say(tx, "proj_1", 1)
        data = ProjectView(id="proj_2", name="n" * size, version=1, created_at=tx.now)
        emit(tx, ProjectCreated, "proj_2", project="proj_2", version=1, data=data)

    with pytest.raises(TooLarge) as refused:
        await database.write(lambda tx: change_and_say(tx, MAX_FACT_BYTES))

    assert refused.value.error_code == "fact_too_large"
    assert await outbox(database) == []


async def test_the_largest_fact_there_may_be_reaches_the_bus(database: Database, client: Client):
    def largest(tx: Transaction, size: int) -> Event:
        data = ProjectView(id="proj_1", name="n" * size, version=1, created_at=tx.now)
        return emit(tx, ProjectCreated, "proj_1", project="proj_1", version=1, data=data, traceparent="0" * 55)

    rest = len((await database.write(lambda tx: largest(tx, 0))).model_dump_json())
    await database.write(lambda tx: largest(tx, MAX_FACT_BYTES - rest))

    await Relay(database, client.jetstream(), "test").publish_waiting()

    assert [(row.published, len(row.body)) for row in await outbox(database)][1] == (True, MAX_FACT_BYTES)


async def test_an_acknowledgement_that_never_comes_does_not_stop_the_relay_for_ever(
    database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relaying, "ACK_TIMEOUT_S", 0.05)
    jetstream = client.jetstream()
    real = jetstream.publish_async
    lost: list[asyncio.Future] = []

    async def into_the_void(*args, **kwargs):
        if lost:
            return await real(*args, **kwargs)
        lost.append(asyncio.get_running_loop().create_future())
        return lost[0]

    monkeypatch.setattr(jetstream, "publish_async", into_the_void)
    await database.write(lambda tx: (say(tx, "proj_1", 1), say(tx, "proj_2", 1)))
    relay = Relay(database, jetstream, "test")

    with pytest.raises(TimeoutError):
        await relay.publish_waiting()
    assert lost[0].cancelled()
    await relay.publish_waiting()

    assert [row.published for row in await outbox(database)] == [True, True]


async def test_nothing_is_lost_or_disordered_when_the_broker_is_killed_in_the_middle(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relaying, "ACK_TIMEOUT_S", 0.5)
    async with connected(broker.url) as client:
        await bus_init(client)
        running = asyncio.create_task(Relay(database, client.jetstream(), "test").run())

        for version in range(1, 41):
            await database.write(lambda tx, v=version: [say(tx, f"proj_{n}", v) for n in range(5)])
            if version in (10, 20, 30):
                await asyncio.to_thread(broker.kill)
            if version in (15, 25, 35):
                broker.start()
        await asyncio.wait_for(until_published(database), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        seen = await stored(client)

    assert len(seen) == len({message_id for _, _, message_id in seen}) == 200
    for n in range(5):
        assert [version for project, version, _ in seen if project == f"proj_{n}"] == list(range(1, 41))


async def test_the_same_fact_twice_is_applied_once_under_whatever_id(database: Database):
    applied: list[str] = []
    fact = await database.write(lambda tx: say(tx, "proj_1", 1))
    renamed = fact.model_copy(update={"id": new_id("evt")})
    newer = fact.model_copy(update={"id": new_id("evt"), "nounversion": 2})

    for event in (fact, fact, renamed, newer, fact):
        await database.write(lambda tx, e=event: apply_once(tx, e, lambda _tx, heard: applied.append(heard.id)))

    assert applied == [fact.id, newer.id]


async def test_the_same_fact_twice_in_one_group_is_applied_once(database: Database):
    applied: list[str] = []
    fact = await database.write(lambda tx: say(tx, "proj_1", 1))

    def hear(tx: Transaction) -> bool:
        return apply_once(tx, fact, lambda _tx, heard: applied.append(heard.id))

    assert sorted(await asyncio.gather(*(database.write(hear) for _ in range(10)))) == [False] * 9 + [True]
    assert len(applied) == 1


async def test_a_fact_whose_handler_failed_is_applied_the_next_time(database: Database):
    fact = await database.write(lambda tx: say(tx, "proj_1", 1))

    def fail(_tx: Transaction, _event: Event) -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        await database.write(lambda tx: apply_once(tx, fact, fail))

    assert await database.write(lambda tx: apply_once(tx, fact, lambda _tx, _event: None))


async def test_the_log_of_a_project_is_read_from_a_place_on(database: Database):
    await database.write(lambda tx: [say(tx, project, v) for v in (1, 2, 3) for project in ("proj_1", "proj_2")])

    first = await database.read(lambda session: events_since(session, "proj_1", limit=2))
    rest = await database.read(lambda session: events_since(session, "proj_1", after=first[-1].seq or 0))

    assert [row.noun_version for row in (*first, *rest)] == [1, 2, 3]


# --- Postgres: several replicas ---------------------------------------------------------------------------------------


async def test_what_cannot_be_marked_is_said_again_and_stored_once(
    database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
):
    await database.write(lambda tx: [say(tx, f"proj_{n}", 1) for n in range(3)])
    relay, write = Relay(database, client.jetstream(), "test"), database.write

    async def away(_work: object) -> None:
        raise Unavailable("the database is away")

    monkeypatch.setattr(database, "write", away)
    with pytest.raises(Unavailable):
        await relay.publish_waiting()
    monkeypatch.setattr(database, "write", write)
    assert await relay.publish_waiting() is False

    assert len(await stored(client)) == 3
    assert [row.published for row in await outbox(database)] == [True] * 3
