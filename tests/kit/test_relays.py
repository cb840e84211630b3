"""Several relays on one database: one publishes, and where it stops another goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from nats.aio.client import Client
from sqlalchemy import text

from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, Relay
from finery_kit.postgres_server import PostgresServer
from tests.kit.delivery_rig import outbox, say, stored


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
    first = asyncio.create_task(Relay(one, jetstream, "one").publish_waiting())
    await asyncio.wait_for(publishing.wait(), 10)

    assert await Relay(two, client.jetstream(), "two").publish_waiting() is False
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


async def test_the_other_relay_goes_on_where_the_first_was_cut_off(
    replicas: tuple[Database, Database], client: Client, monkeypatch: pytest.MonkeyPatch
):
    """The first publishes half, loses its database connection with its lock, and never comes back."""
    one, two = replicas
    await one.write(lambda tx: [say(tx, "proj_1", n) for n in range(1, 11)])
    jetstream = client.jetstream()
    real, half, forever = jetstream.publish_async, asyncio.Event(), asyncio.Event()
    said: list[object] = []

    async def half_of_them(*args, **kwargs):
        if len(said) == 5:
            half.set()
            await forever.wait()
        said.append(args)
        return await real(*args, **kwargs)

    monkeypatch.setattr(jetstream, "publish_async", half_of_them)
    first = asyncio.create_task(Relay(one, jetstream, "one").publish_waiting())
    await asyncio.wait_for(half.wait(), 10)
    cut = text("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()")
    await two.read(lambda session: session.exec(cut))

    second = Relay(two, client.jetstream(), "two")
    async with asyncio.timeout(10):
        while not all(row.published for row in await outbox(two)):
            await second.publish_waiting()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    assert [version for _, version, _ in await stored(client)] == list(range(1, 11))


async def test_a_relay_that_finds_nothing_lets_another_publish(replicas: tuple[Database, Database], client: Client):
    one, two = replicas
    async with asyncio.timeout(10):
        assert await Relay(one, client.jetstream(), "one").publish_waiting() is False

    await one.write(lambda tx: say(tx, "proj_1", 1))
    assert await Relay(two, client.jetstream(), "two").publish_waiting() is False

    assert [version for _, version, _ in await stored(client)] == [1]
