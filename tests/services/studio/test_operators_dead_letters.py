"""Studio's half of the dead letters: the server's advisories become letters, once; only an operator sees any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client
from sqlmodel import Session

from finery_contracts.access import Role
from finery_contracts.dead import DeadLetter
from finery_contracts.streams import DEAD, EVENTS, Durable
from finery_kit.bus_init import bus_init
from finery_kit.db import utc_now
from finery_kit.dead import DeadLetters, Given, lay_aside
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import nats_server
from finery_studio.app import Studio
from finery_studio.events import dead
from finery_studio.projects import store as project_store
from finery_studio.settings import StudioSettings

SUBJECT = "finery.evt.prj_1.model.mdl_1.deleted"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[tuple[str, Client]]:
    with nats_server(tmp_path / "nats") as url:
        async with connected(url) as client:
            await bus_init(client)
            yield url, client


async def letters(client: Client, count: int) -> list[DeadLetter]:
    async with asyncio.timeout(20):
        while len(found := (await DeadLetters(client.jetstream()).list()).data) < count:
            await asyncio.sleep(0.02)
    return found


async def give_up_without_a_word(client: Client) -> None:
    """As a process that dies of the message each time it gets it."""
    subscription = await client.jetstream().pull_subscribe_bind(Durable.DEPLOYER, EVENTS.name)
    for _ in range(12):
        (message,) = await subscription.fetch(1, timeout=5)
        await message.nak()
    await asyncio.gather(subscription.fetch(1, timeout=0.5), return_exceptions=True)
    await subscription.unsubscribe()


async def test_a_message_that_a_consumer_died_of_is_listed_whole_and_once(
    bus: tuple[str, Client], tmp_path: Path
) -> None:
    url, client = bus
    await client.jetstream().publish(SUBJECT, b'{"a": 1}', headers={"traceparent": "00-1"})
    await give_up_without_a_word(client)
    service = Service("studio", Settings(nats_url=url, home=tmp_path))
    dead.listen(service)

    async with running(service):
        (letter,) = await letters(client, 1)
        again = [await client.jetstream().get_msg(DEAD.name, seq) for seq in (1,)]
        await client.jetstream().publish(again[0].subject or "", again[0].data or b"")
        await client.jetstream().publish(again[0].subject or "", b"not what the server says")
        async with asyncio.timeout(20):
            while (await client.jetstream().consumer_info(DEAD.name, Durable.STUDIO_DEAD)).ack_floor.consumer_seq < 3:
                await asyncio.sleep(0.02)
        found = await letters(client, 1)
        shown = await DeadLetters(client.jetstream()).show(letter.id)

    assert found == [letter]
    assert (letter.durable, letter.subject, letter.seq, letter.deliveries) == ("deployer", SUBJECT, 1, 12)
    assert "12 deliveries" in letter.reason
    assert (shown.body, shown.headers) == ('{"a": 1}', {"traceparent": "00-1"})


async def test_what_the_kit_laid_aside_with_its_reason_is_not_listed_again_by_the_advisory(
    bus: tuple[str, Client], tmp_path: Path
) -> None:
    url, client = bus
    await client.jetstream().publish(SUBJECT, b"{}")
    given = Given("deployer", EVENTS.name, 1, SUBJECT, "ValueError: because", 12, utc_now(), b"{}")
    await lay_aside(client.jetstream(), given)
    await give_up_without_a_word(client)
    service = Service("studio", Settings(nats_url=url, home=tmp_path))
    dead.listen(service)

    async with running(service), asyncio.timeout(20):
        while not (await client.jetstream().consumer_info(DEAD.name, Durable.STUDIO_DEAD)).ack_floor.consumer_seq:
            await asyncio.sleep(0.02)
        found = await letters(client, 1)

    assert [letter.reason for letter in found] == ["ValueError: because"]


async def test_only_an_operator_sees_shows_replays_or_drops(bus: tuple[str, Client], tmp_path: Path) -> None:
    url, client = bus
    await lay_aside(
        client.jetstream(), Given("deployer", EVENTS.name, 1, SUBJECT, "because", 12, utc_now(), b"secret of prj_2")
    )
    settings = StudioSettings(nats_url=url, home=tmp_path, installation_secret="ab" * 32, store_root=tmp_path / "s")
    studio = Studio(settings)
    async with running(studio.service):
        keys = {role: await a_key(studio, role) for role in Role}
        transport = httpx.ASGITransport(app=studio.http())
        async with httpx.AsyncClient(transport=transport, base_url="http://studio") as http:
            calls = [("GET", ""), ("GET", "/2"), ("POST", "/2/replay"), ("DELETE", "/2"), ("GET", "?limit=x")]
            (letter,) = (await DeadLetters(client.jetstream()).list()).data
            for role in (Role.FULL, Role.COMMON, Role.READ):
                for method, path in calls:
                    answer = await http.request(method, f"/api/v1/dead{path}", headers=keys[role])
                    assert (answer.status_code, "secret" in answer.text) == (403, False), (role, path)
            assert (await http.get("/api/v1/dead")).status_code == 401

            listed = (await http.get("/api/v1/dead", headers=keys[Role.OPERATOR])).json()
            shown = (await http.get(f"/api/v1/dead/{letter.id}", headers=keys[Role.OPERATOR])).json()
            replayed = await http.post(f"/api/v1/dead/{letter.id}/replay", headers=keys[Role.OPERATOR])
            gone = await http.delete(f"/api/v1/dead/{letter.id}", headers=keys[Role.OPERATOR])

    assert [item["reason"] for item in listed["data"]] == ["because"]
    assert shown["body"] == "secret of prj_2"
    assert replayed.json() == {"id": letter.id, "durable": "deployer", "subject": SUBJECT}
    assert gone.status_code == 404


async def a_key(studio: Studio, role: Role) -> dict[str, str]:
    """The header of a new key in this role."""

    def make(tx: object) -> str:
        session: Session = tx.session  # type: ignore[attr-defined]
        project = project_store.project_named(session, "default")
        if project is None:
            project = studio.keys.add_project(tx, "default")  # type: ignore[arg-type]
        key = studio.keys.add_key(tx, project.id, role, role=role, description="")  # type: ignore[arg-type]
        assert key.secret is not None
        return key.secret

    return {"authorization": f"Bearer {await studio.database.write(make)}"}
