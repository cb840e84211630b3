"""The bus's whole storage is lost under load: the outboxes refill it, and nothing is lost or applied twice."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlmodel import select

from finery_contracts.access import Actor, ProjectCreated, ProjectView, Role
from finery_contracts.errors import Forbidden
from finery_contracts.model import Record
from finery_contracts.rebuild import RebuildState
from finery_contracts.streams import EVENTS, Durable
from finery_kit import bus_init as bus_init_module
from finery_kit import rebuild as rebuild_module
from finery_kit.bus import ask, listen_to_facts
from finery_kit.bus_init import bus_init, watch
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow, emit
from finery_kit.hot import Together, listen_in_batches
from finery_kit.nats_server import nats_binary
from finery_kit.ports import free_port
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import VirtualClock

OPERATOR = Actor(project="prj_1", project_name="p", user="ann", key="key_1", role=Role.OPERATOR)


class Broker:
    """A nats-server whose storage can be lost."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [str(nats_binary()), "-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)

    def lose_everything(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)
        self.start()


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(bus_init_module, "WATCH_S", 1)
    monkeypatch.setattr(rebuild_module, "LOOK_S", 0.1)
    made = Broker(tmp_path / "nats")
    made.start()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Exception):
                async with connected(made.url) as client:
                    await bus_init(client)
                break
            await asyncio.sleep(0.05)
    yield made
    made.kill()


def service_of(name: str, broker: Broker, folder: Path) -> Service:
    database = Database(f"sqlite:///{folder / name}.sqlite", DELIVERY_METADATA)
    return Service(name, Settings(nats_url=broker.url, home=folder), database)


async def say(service: Service, project: str, version: int) -> None:
    def tell(tx: Transaction) -> None:
        view = ProjectView(id=project, name="p", version=version, created_at=tx.now)
        emit(tx, ProjectCreated, project, project=project, version=version, data=view)

    assert service.database is not None
    await service.database.write(tell)
    service.wake_relay()


async def outbox(service: Service) -> list[OutboxRow]:
    assert service.database is not None
    return await service.database.read(lambda session: list(session.exec(select(OutboxRow))))


async def stored(service: Service) -> Counter[str]:
    info = await service.jetstream.stream_info(EVENTS.name)
    found: Counter[str] = Counter()
    for seq in range(info.state.first_seq, info.state.last_seq + 1):
        message = await service.jetstream.get_msg(EVENTS.name, seq, direct=True)
        found[(message.headers or {})["Nats-Msg-Id"]] += 1
    return found


async def test_the_storage_is_lost_under_load_and_no_fact_is_lost_or_applied_twice(
    broker: Broker, tmp_path: Path
) -> None:
    applied: Counter[tuple[str, int]] = Counter()
    plain: Counter[tuple[str, int]] = Counter()
    studio = service_of("studio", broker, tmp_path)
    meter, deployer = service_of("billing-meter", broker, tmp_path), service_of("deployer", broker, tmp_path)

    def take(_tx: Transaction, facts: list[ProjectCreated]) -> None:
        applied.update((fact.noun_id, fact.nounversion) for fact in facts)

    listen_in_batches(meter, Durable.NOTIFIER, {ProjectCreated: Together(take)})
    assert deployer.database is not None
    listen_to_facts(
        deployer.broker, "deployer", Durable.BILLING_METER,
        {ProjectCreated: lambda _tx, fact: plain.update([(fact.noun_id, fact.nounversion)])}, deployer.database,
    )  # fmt: skip
    async with connected(broker.url) as client, running(studio, meter, deployer):
        watching = asyncio.create_task(watch(client))
        for version in range(1, 61):
            for n in range(3):
                await say(studio, f"prj_{n}", version)
            if version in (20, 40):
                await asyncio.to_thread(broker.lose_everything)
            await asyncio.sleep(0.01)
        said = {row.event_id for row in await outbox(studio)}
        async with asyncio.timeout(90):
            while len(applied) < 180 or set(await stored_or_nothing(studio)) != said:
                await asyncio.sleep(0.2)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    assert set(applied) == {(f"prj_{n}", version) for n in range(3) for version in range(1, 61)}
    assert set(applied.values()) == {1}
    assert set(plain.values()) <= {1}


async def order_on_the_bus(service: Service) -> list[tuple[str, int]]:
    """Noun and version of everything, in the order of the stream."""
    info = await service.jetstream.stream_info(EVENTS.name)
    found: list[tuple[str, int]] = []
    for seq in range(info.state.first_seq, info.state.last_seq + 1):
        fact = ProjectCreated.model_validate_json((await service.jetstream.get_msg(EVENTS.name, seq)).data or b"")
        found.append((fact.noun_id, fact.nounversion))
    return found


@pytest.mark.parametrize("how", ["the broker dies", "the stream is deleted"])
async def test_nothing_new_is_said_before_what_was_lost(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(rebuild_module, "LOOK_S", 3600)  # nobody looks by himself: the relay must
    studio = service_of("studio", broker, tmp_path)
    async with connected(broker.url) as client, running(studio):
        for version in range(1, 31):
            await say(studio, "prj_1", version)
        await settled(studio)
        if how == "the broker dies":
            await asyncio.to_thread(broker.lose_everything)
        else:
            await client.jetstream().delete_stream(EVENTS.name)
        for version in range(31, 61):
            await say(studio, "prj_1", version)
        await made_again(broker)
        await settled(studio)
        found = await order_on_the_bus(studio)

    assert found == [("prj_1", version) for version in range(1, 61)]


async def made_again(broker: Broker) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Exception):
                async with connected(broker.url) as client:
                    await bus_init(client)
                return
            await asyncio.sleep(0.05)


async def test_what_the_stream_let_go_by_its_age_is_not_said_again(
    broker: Broker, tmp_path: Path, database_url: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("events_days: 40\n")
    clock = VirtualClock()
    database = Database(database_url, DELIVERY_METADATA, clock=clock)
    studio = Service("studio", Settings(nats_url=broker.url, home=tmp_path, retention_file=policy), database)
    async with running(studio):
        for version, days in ((1, 0), (2, 30), (3, 15)):
            clock.advance(days * 86_400)
            await say(studio, "prj_1", version)
        await settled(studio)
        await asyncio.to_thread(broker.lose_everything)
        await made_again(broker)
        async with asyncio.timeout(30):
            while sum((await stored_or_nothing(studio)).values()) < 2:
                await asyncio.sleep(0.05)
        assert (await rebuilt(studio)).lost == 0
        assert await order_on_the_bus(studio) == [("prj_1", 2), ("prj_1", 3)]


async def stored_or_nothing(service: Service) -> Counter[str]:
    with contextlib.suppress(Exception):
        return await stored(service)
    return Counter()


async def test_what_was_purged_is_found_missing_and_what_is_there_is_not_said_again(
    broker: Broker, tmp_path: Path
) -> None:
    studio = service_of("studio", broker, tmp_path)
    async with running(studio):
        for version in range(1, 6):
            await say(studio, "prj_1", version)
        await settled(studio)
        whole = await rebuilt(studio)
        assert (whole.checked, whole.lost, set((await stored(studio)).values())) == (5, 0, {1})

        await studio.jetstream.purge_stream(EVENTS.name)
        await say(studio, "prj_1", 6)
        await settled(studio)
        lost = await rebuilt(studio)
        found = await stored(studio)

    # A broker still knows the ids of what was purged in the last two minutes, and takes those facts for doubled.
    assert lost.lost == 5
    assert set(found.values()) == {1}


async def settled(service: Service) -> None:
    async with asyncio.timeout(20):
        while not all(row.published for row in await outbox(service)):
            await asyncio.sleep(0.02)


async def rebuilt(service: Service) -> RebuildState:
    await ask(service.client, "studio", "rebuild", None, RebuildState, actor=OPERATOR)
    async with asyncio.timeout(20):
        while True:
            state = await ask(service.client, "studio", "rebuild.state", None, RebuildState, actor=OPERATOR)
            if not state.running and not state.waiting:
                return state
            await asyncio.sleep(0.02)


async def test_only_an_operator_may_rebuild(broker: Broker, tmp_path: Path) -> None:
    studio = service_of("studio", broker, tmp_path)
    async with running(studio):
        for role in (Role.FULL, Role.COMMON, Role.READ):
            with pytest.raises(Forbidden):
                await ask(
                    studio.client, "studio", "rebuild", None, Record, actor=OPERATOR.model_copy(update={"role": role})
                )
