"""A service that oversteps is refused by the server: tried for each of them, on a real broker with every credential."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from finery_contracts.permissions import ASKS, HEARS, INIT, SERVICES, WORKERS, grants, inbox_of
from finery_contracts.registry import EVENTS as KINDS
from finery_contracts.streams import DEAD, EVENTS, STREAMS, Durable, consumer_of
from finery_kit.bus import inbox_prefix
from finery_kit.bus_init import bus_init
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.testing import flushed

SECRET = bytes.fromhex("cd" * 32)
USERS = (*SERVICES, INIT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bus")


@pytest.fixture
async def server(home: Path) -> AsyncIterator[NatsServer]:
    found = NatsServer(home, SECRET, port=free_port())
    await found.start()
    async with connected(found, INIT) as client:
        await bus_init(client)
    yield found
    await found.stop()


@contextlib.asynccontextmanager
async def connected(server: NatsServer, user: str, faults: list[str] | None = None) -> AsyncIterator[Client]:
    async def note(fault: Exception) -> None:
        if faults is not None:
            faults.append(str(fault).lower())

    client, url = Client(), server.url(user)
    await client.connect(url, error_cb=note, allow_reconnect=False, inbox_prefix=inbox_prefix(url))
    try:
        yield client
    finally:
        await client.close()


async def refused(faults: list[str], subjects: set[str]) -> None:
    """The server named every one of them."""
    async with asyncio.timeout(10):
        while not all(any(f'"{subject.lower()}"' in fault for fault in faults) for subject in subjects):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("user", USERS)
async def test_what_is_not_ones_own_cannot_be_said(server: NatsServer, user: str) -> None:
    faults: list[str] = []
    others = {
        f"finery.evt.prj_1.{kind.NOUN}.x.{kind.FACT}" for kind in KINDS.values() if user != kind.SAID_BY
    }  # fmt: skip
    foreign = {durable for durable in Durable if durable not in HEARS.get(user, ())}
    taken = {f"$JS.API.CONSUMER.MSG.NEXT.{stream_of(durable)}.{durable}" for durable in foreign}
    acknowledged = {f"$JS.ACK.{stream_of(durable)}.{durable}.1.1.1.1.1" for durable in foreign}
    broken = {f"$JS.API.STREAM.{verb}.{stream.name}" for verb in ("PURGE", "DELETE") for stream in STREAMS}
    asked = {"finery.rpc.studio.claim"} if "finery.rpc.studio.claim" not in ASKS.get(user, ()) else set()
    spoken = {f"_INBOX_{other}.x" for other in USERS if other != user} | {"finery.in.prj_1.x", "finery.report"}
    subjects = others | taken | acknowledged | broken | asked | spoken
    if user != "studio":
        subjects |= {"$KV.keys.k", "finery.redo.notifier", f"$JS.API.STREAM.MSG.DELETE.{DEAD.name}"}
    if user != "deployer":
        subjects.add("$KV.routes.r")
    async with connected(server, user, faults) as client:
        for subject in subjects:
            await client.publish(subject, b"{}")
        await refused(faults, subjects)


@pytest.mark.parametrize("user", USERS)
async def test_what_is_not_for_one_cannot_be_heard(server: NatsServer, user: str) -> None:
    faults: list[str] = []
    places = {f"{inbox_of(other)}.>" for other in (*USERS, "prj_1") if other != user}
    places |= {">", "_INBOX.>", "finery.evt.>", "finery.in.>", "finery.report.>", "$KV.>", "$JS.API.>"}
    places |= {f"finery.rpc.{other}.>" for other in SERVICES if other != user}
    async with connected(server, user, faults) as client:
        for place in places:
            await client.subscribe(place)
        await refused(faults, places)


@pytest.mark.parametrize(("service", "durable"), [(s, d) for s, mine in HEARS.items() for d in mine])
async def test_ones_own_consumer_is_read_acknowledged_and_laid_aside(
    server: NatsServer, service: str, durable: Durable
) -> None:
    faults: list[str] = []
    async with connected(server, service, faults) as client:
        subscription = await client.jetstream().pull_subscribe_bind(durable, stream_of(durable))
        with contextlib.suppress(nats.errors.TimeoutError):
            for message in await subscription.fetch(1, timeout=0.2):
                await message.ack()
        await client.jetstream().publish(f"finery.dead.{durable}", b"{}", stream=DEAD.name)
        await flushed(client)
    assert faults == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
async def test_every_fact_can_be_said_by_its_owner(server: NatsServer, kind: type) -> None:
    async with connected(server, kind.SAID_BY, []) as client:
        said = await client.jetstream().publish(f"finery.evt.prj_1.{kind.NOUN}.x.{kind.FACT}", b"{}")
    assert said.stream == EVENTS.name


async def test_only_whoever_was_asked_may_answer(server: NatsServer) -> None:
    async with connected(server, "studio", []) as studio, connected(server, "trainer", []) as trainer:

        async def answer(message: object) -> None:
            await message.respond(b"yes")  # type: ignore[attr-defined]

        await studio.subscribe("finery.rpc.studio.claim", cb=answer)
        await flushed(studio)
        assert (await trainer.request("finery.rpc.studio.claim", b"", timeout=5)).data == b"yes"


def stream_of(durable: str) -> str:
    found = consumer_of(durable)
    assert found is not None
    return found[0].name


def test_every_service_has_one_grant_and_a_worker_says_nothing_but_reports() -> None:
    assert sorted(grant.user for grant in grants()) == sorted(USERS)
    for grant in grants():
        if grant.user in WORKERS:
            assert [subject for subject in grant.publish if subject.startswith("finery.evt.")] == []
