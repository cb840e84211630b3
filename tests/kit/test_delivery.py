"""Outbox, relay and inbox against a real broker, which is killed and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from sqlmodel import col, select

from finery_contracts.access import ProjectCreated, ProjectView
from finery_contracts.envelope import Event
from finery_contracts.errors import TooLarge
from finery_contracts.ids import new_id
from finery_contracts.streams import EVENTS, MAX_FACT_BYTES
from finery_kit import relay as relaying
from finery_kit.bus import apply_once
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow, Relay, emit, events_since
from finery_kit.nats_server import nats_binary
from finery_kit.ports import free_port
from finery_kit.postgres_server import PostgresServer
from finery_kit.testing import nats_server


class Broker:
    """A nats-server that can be killed as by a power cut of its process, and started again on the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"nats://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(nats_binary()), "-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "nats")
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def shared_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nats_server(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url, DELIVERY_METADATA)
    made.open()
    yield made
    made.close()


async def quiet(_fault: Exception) -> None:
    """Reconnecting is what these tests are about."""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(shared_url: str) -> AsyncIterator[Client]:
    async with connected(shared_url) as made:
        await bus_init(made)
        await made.jetstream().purge_stream(EVENTS.name)
        yield made


def say(tx: Transaction, project: str, version: int) -> Event:
    data = ProjectView(id=project, name="p", version=version, created_at=tx.now)
    return emit(tx, ProjectCreated, project, project=project, version=version, data=data)


async def outbox(database: Database) -> list[OutboxRow]:
    return await database.read(lambda session: list(session.exec(select(OutboxRow).order_by(col(OutboxRow.seq)))))


async def stored(client: Client) -> list[tuple[str, int, str]]:
    """Everything in EVENTS in its order: noun id, version, message id."""
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(EVENTS.name)).state
    found: list[tuple[str, int, str]] = []
    for seq in range(state.first_seq, state.last_seq + 1):
        message = await jetstream.get_msg(EVENTS.name, seq)
        body = json.loads(message.data or b"")
        found.append((body["data"]["id"], body["nounversion"], (message.headers or {})["Nats-Msg-Id"]))
    return found


async def until_published(database: Database) -> None:
    while not all(row.published for row in await outbox(database)):
        await asyncio.sleep(0.02)


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

    assert await relay.publish_page() is False
    rows = await outbox(database)

    assert [row.published for row in rows] == [True] * 6
    assert await stored(client) == [(row.noun_id, row.noun_version, row.event_id) for row in rows]


async def test_the_bytes_on_the_bus_are_the_bytes_of_the_outbox(database: Database, client: Client):
    await database.write(lambda tx: say(tx, "proj_1", 1))
    await Relay(database, client.jetstream(), "test").publish_page()

    (row,) = await outbox(database)
    message = await client.jetstream().get_last_msg(EVENTS.name, row.bus_subject)

    assert message.data == row.body


async def test_a_fact_whose_mark_was_lost_is_not_on_the_bus_twice(database: Database, client: Client):
    await database.write(lambda tx: say(tx, "proj_1", 1))
    relay = Relay(database, client.jetstream(), "test")
    await relay.publish_page()

    def forget(tx: Transaction) -> None:
        for row in tx.session.exec(select(OutboxRow)):
            row.published = False

    await database.write(forget)
    await relay.publish_page()

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

    await Relay(database, client.jetstream(), "test").publish_page()

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
        await relay.publish_page()
    assert lost[0].cancelled()
    await relay.publish_page()

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


@pytest.fixture
def replicas(postgres: PostgresServer) -> Iterator[tuple[Database, Database]]:
    with postgres.fresh() as url:
        made = (Database(url, DELIVERY_METADATA), Database(url, DELIVERY_METADATA))
        for database in made:
            database.open()
        yield made
        for database in made:
            database.close()


async def test_of_two_relays_one_publishes_while_the_other_waits(
    replicas: tuple[Database, Database], client: Client, monkeypatch: pytest.MonkeyPatch
):
    one, two = replicas
    await one.write(lambda tx: [say(tx, f"proj_{n}", 1) for n in range(10)])
    jetstream = client.jetstream()
    real = jetstream.publish_async
    publishing, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*args, **kwargs):
        publishing.set()
        await go_on.wait()
        return await real(*args, **kwargs)

    monkeypatch.setattr(jetstream, "publish_async", slow)
    first = asyncio.create_task(Relay(one, jetstream, "one").publish_page())
    await asyncio.wait_for(publishing.wait(), 10)

    assert await Relay(two, client.jetstream(), "two").publish_page() is False
    assert await stored(client) == []
    go_on.set()
    await first

    assert [project for project, _, _ in await stored(client)] == [f"proj_{n}" for n in range(10)]


async def test_a_later_fact_is_never_visible_before_an_earlier_one(replicas: tuple[Database, Database]):
    one, two = replicas
    held, go_on = threading.Event(), threading.Event()

    def slow_commit(tx: Transaction) -> None:
        say(tx, "proj_1", 1)
        tx.before_commit.append(tx.session.flush)
        tx.before_commit.append(lambda: (held.set(), go_on.wait(10)))

    slow = asyncio.create_task(one.write(slow_commit))
    await asyncio.to_thread(held.wait, 10)
    quick = asyncio.create_task(two.write(lambda tx: say(tx, "proj_2", 1)))
    done, _ = await asyncio.wait([quick], timeout=0.2)

    assert not done
    assert await outbox(one) == []
    go_on.set()
    await asyncio.gather(slow, quick)
    assert [row.noun_id for row in await outbox(two)] == ["proj_1", "proj_2"]
