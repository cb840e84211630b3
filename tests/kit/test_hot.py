"""The hot path: many facts in one transaction, each applied once, in their order; a bad one hurts no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from sqlmodel import select

from finery_contracts.access import ProjectCreated, ProjectView
from finery_contracts.envelope import Event
from finery_contracts.errors import Unavailable
from finery_contracts.inbound import InboundRefused, Refusal
from finery_contracts.streams import EVENTS, Durable
from finery_kit import redelivery
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.dead import DeadLetters
from finery_kit.delivery_tables import DELIVERY_METADATA, InboxRow
from finery_kit.hot import Heard, HotRoutes, Taken, Together, apply_batch, listen_in_batches
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import flushed, nats_server


@pytest.fixture
async def service(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(redelivery, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(redelivery, "OUTAGE_LOOK_S", 0.01)
    with nats_server(tmp_path / "nats") as url:
        async with connected(url) as client:
            await bus_init(client)
        database = Database(database_url, DELIVERY_METADATA)
        yield Service("meter", Settings(nats_url=url, home=tmp_path), database)


def fact(project: str, version: int, event_id: str | None = None) -> ProjectCreated:
    view = ProjectView(id=project, name="p", version=version, created_at=utc_now())
    return ProjectCreated(
        id=event_id or f"evt_{project}_{version}", type=ProjectCreated.type_name(), source="s",
        subject=f"project/{project}", time=utc_now(), project=project, nounversion=version, data=view,
    )  # fmt: skip


def taken(routes: HotRoutes, events: Sequence[Event]) -> list[Taken]:
    """As the consumer has them at hand."""
    return [Taken(Msg(object(), event.bus_subject), event, routes[type(event)]) for event in events]  # type: ignore[arg-type]


async def publish(service: Service, *events: Event) -> None:
    for event in events:
        await service.jetstream.publish(event.bus_subject, event.model_dump_json().encode())


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def settled(service: Service) -> None:
    """Nothing waits and nothing is at hand."""
    async with asyncio.timeout(20):
        while True:
            info = await service.jetstream.consumer_info(EVENTS.name, Durable.NOTIFIER)
            if not info.num_pending and not info.num_ack_pending:
                return
            await asyncio.sleep(0.02)


async def test_facts_that_came_together_are_applied_together_once_and_in_order(service: Service) -> None:
    calls: list[list[tuple[str, int]]] = []
    woken: list[int] = []

    def take(_tx: Transaction, events: list[ProjectCreated]) -> None:
        calls.append([(event.noun_id, event.nounversion) for event in events])

    async with connected(service.settings.nats_url) as client:
        for version in range(1, 101):
            for project in ("prj_1", "prj_2"):
                for again in range(1 + version % 2):
                    event = fact(project, version, f"evt_{project}_{version}_{again}")
                    await client.publish(event.bus_subject, event.model_dump_json().encode())
        await flushed(client)
    listen_in_batches(service, Durable.NOTIFIER, {ProjectCreated: Together(take)}, after=lambda: woken.append(1))
    async with running(service):
        await settled(service)

    heard = [place for call in calls for place in call]
    assert sorted(heard) == sorted((project, v) for v in range(1, 101) for project in ("prj_1", "prj_2"))
    for project in ("prj_1", "prj_2"):
        assert [v for p, v in heard if p == project] == list(range(1, 101))
    assert len(calls) < 50
    assert len(woken) == len(calls)


async def test_a_row_may_ask_for_the_very_bytes(service: Service) -> None:
    heard: list[Heard] = []
    listen_in_batches(
        service, Durable.NOTIFIER, {ProjectCreated: Together(lambda _tx, facts: heard.extend(facts), with_bytes=True)}
    )
    said = [fact("prj_1", version) for version in (1, 2)]
    async with running(service):
        await publish(service, *said)
        await settled(service)

    assert heard == [Heard(event, event.model_dump_json().encode()) for event in said]


async def test_handlers_of_one_fact_and_of_many_take_turns_as_the_facts_came(service: Service) -> None:
    said: list[tuple[str, list[str]]] = []
    refusal = Refusal(id="x", source="s", type="t", error=Unavailable("no").body)

    def refused(number: int) -> InboundRefused:
        return InboundRefused(
            id=f"evt_r{number}", type=InboundRefused.type_name(), source="s", subject=f"inbound/inb_{number}",
            time=utc_now(), project="prj_1", nounversion=1, data=refusal,
        )  # fmt: skip

    routes = {
        ProjectCreated: Together(lambda _tx, facts: said.append(("many", [f.noun_id for f in facts]))),
        InboundRefused: lambda _tx, event: said.append(("one", [event.noun_id])),
    }
    await asyncio.to_thread(service.database.open)  # type: ignore[union-attr]
    facts = [fact("prj_1", 1), fact("prj_2", 1), refused(1), refused(2), fact("prj_3", 1), fact("prj_1", 1)]
    await service.database.write(lambda tx: apply_batch(tx, taken(routes, facts)))  # type: ignore[union-attr]
    await asyncio.to_thread(service.database.close)  # type: ignore[union-attr]

    assert said == [("many", ["prj_1", "prj_2"]), ("one", ["inb_1"]), ("one", ["inb_2"]), ("many", ["prj_3"])]


async def test_a_bad_fact_is_given_up_alone_and_the_others_of_its_batch_are_applied(service: Service) -> None:
    applied: list[int] = []

    def take(tx: Transaction, events: list[ProjectCreated]) -> None:
        for event in events:
            if event.nounversion == 13:
                raise RuntimeError("unlucky")
        tx.after_commit.append(lambda: applied.extend(event.nounversion for event in events))

    async with connected(service.settings.nats_url) as client:
        await client.jetstream().publish(fact("prj_1", 99).bus_subject, b"no event at all")
        for version in range(1, 31):
            await client.jetstream().publish(
                fact("prj_1", version).bus_subject, fact("prj_1", version).model_dump_json().encode()
            )
    listen_in_batches(service, Durable.NOTIFIER, {ProjectCreated: Together(take)})
    async with running(service):
        await settled(service)
        letters = (await DeadLetters(service.jetstream).list()).data

    assert sorted(applied) == [version for version in range(1, 31) if version != 13]
    assert {(letter.seq, letter.deliveries) for letter in letters} == {(1, 1), (14, 12)}
    assert [letter.reason for letter in letters if letter.seq == 14] == ["RuntimeError: unlucky"]


async def test_a_full_database_is_waited_for_and_nothing_is_lost_or_given_up(service: Service) -> None:
    full = [True]
    tries: list[int] = []

    def take(_tx: Transaction, events: list[ProjectCreated]) -> None:
        tries.append(len(events))
        if full[0]:
            raise Unavailable("full")

    listen_in_batches(service, Durable.NOTIFIER, {ProjectCreated: Together(take)})
    async with running(service):
        await publish(service, *(fact("prj_1", version) for version in range(1, 11)))
        await until(lambda: len(tries) > 20)
        full[0] = False
        await settled(service)
        assert service.database is not None
        rows = await service.database.read(lambda session: list(session.exec(select(InboxRow))))
        letters = (await DeadLetters(service.jetstream).list()).data

    assert sorted(row.version for row in rows) == list(range(1, 11))
    assert letters == []


async def test_a_replayed_letter_comes_in_by_the_hot_path_too(service: Service) -> None:
    mended: list[int] = []
    applied: list[int] = []

    def take(_tx: Transaction, event: ProjectCreated) -> None:
        if not mended:
            raise RuntimeError("not yet")
        applied.append(event.nounversion)

    listen_in_batches(service, Durable.NOTIFIER, {ProjectCreated: take})
    async with running(service):
        await publish(service, fact("prj_1", 4))
        dead = DeadLetters(service.jetstream)
        async with asyncio.timeout(20):
            while not (letters := (await dead.list()).data):
                await asyncio.sleep(0.02)
        mended.append(1)
        await dead.replay(letters[0].id)
        await until(lambda: applied)

    assert applied == [4]


async def test_an_unknown_type_and_a_fact_without_a_route_are_passed_over(service: Service) -> None:
    applied: list[int] = []
    listen_in_batches(service, Durable.NOTIFIER, {ProjectCreated: lambda _tx, event: applied.append(event.nounversion)})
    async with running(service):
        subject = fact("prj_1", 1).bus_subject
        newer = fact("prj_1", 1).model_copy(update={"type": "io.finery.project.created.v2"})
        await service.jetstream.publish(subject, newer.model_dump_json().encode())
        await service.jetstream.publish("finery.evt.prj_1.project.prj_1.sung", b'{"type": "io.finery.project.sung.v1"}')
        await publish(service, fact("prj_1", 2))
        await settled(service)
        letters = (await DeadLetters(service.jetstream).list()).data

    assert applied == [2]
    assert letters == []


async def test_a_consumer_that_was_deleted_is_read_again_once_it_is_back(service: Service) -> None:
    applied: list[int] = []
    listen_in_batches(service, Durable.NOTIFIER, {ProjectCreated: lambda _tx, event: applied.append(event.nounversion)})
    async with running(service):
        await publish(service, fact("prj_1", 1))
        await until(lambda: applied == [1])
        await service.jetstream.delete_consumer(EVENTS.name, Durable.NOTIFIER)
        await publish(service, fact("prj_1", 2))
        await bus_init(service.client)
        await until(lambda: applied == [1, 2])
