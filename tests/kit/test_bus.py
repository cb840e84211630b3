"""Requests and their errors over a real broker; what cannot be handled is tried again, or laid aside with a reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finery_contracts.access import Actor, ProjectCreated, ProjectView, Role
from finery_contracts.dead import DeadLetter
from finery_contracts.errors import Conflict, FineryError, InvalidRequest, TooLarge, Unavailable
from finery_contracts.model import Record, Request
from finery_contracts.streams import EVENTS, Durable
from finery_kit.bus import Call, Rpc, answer_requests, ask, listen_to_facts, subscribe_pull
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.dead import DeadLetters
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import nats_server

ANN = Actor(project="prj_1", project_name="p", user="ann", key="key_1", role=Role.FULL)
SUBJECT = "finery.evt.prj_1.model.mdl_1.deleted"


class Word(Request):
    text: str


class Echo(Record):
    text: str
    by: str | None = None


async def echo(call: Call[Word]) -> Echo:
    if call.body.text == "refuse":
        raise Conflict("it is taken", code="name_taken", param="text", details=[{"used_by": "x"}])
    if call.body.text == "break":
        raise RuntimeError("fk-secret")
    if call.body.text == "grow":
        return Echo(text="x" * 2**20)
    return Echo(text=call.body.text, by=call.actor.user if call.actor else None)


async def whose(call: Call[Word]) -> Echo:
    return Echo(text="", by=call.by.user)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with every stream declared; its tests attach what it hears before they start it."""
    with nats_server(tmp_path / "nats") as url:
        async with connected(url) as client:
            await bus_init(client)
        found = Service("echo", Settings(nats_url=url, home=tmp_path))
        answer_requests(found.broker, "echo", {"say": Rpc(Word, echo), "whose": Rpc(Word, whose)})
        yield found


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def dead(service: Service) -> list[DeadLetter]:
    """What was given up so far."""
    return (await DeadLetters(service.jetstream).list()).data


async def test_a_request_is_answered_and_its_errors_arrive_as_they_were(service: Service) -> None:
    async with running(service):

        async def say(text: str, verb: str = "say", **named: Any) -> Echo:
            return await ask(service.client, "echo", verb, Word(text=text), Echo, **named)

        assert await say("hi", actor=ANN) == Echo(text="hi", by="ann")
        with pytest.raises(Conflict) as taken:
            await say("refuse")
        assert (
            taken.value.body
            == Conflict("it is taken", code="name_taken", param="text", details=[{"used_by": "x"}]).body
        )
        with pytest.raises(FineryError) as broken:
            await say("break")
        assert (broken.value.status, broken.value.error_code) == (500, "internal_error")
        assert "fk-secret" not in broken.value.message
        with pytest.raises(InvalidRequest) as nobody:
            await say("", verb="whose")
        assert nobody.value.error_code == "actor_missing"
        with pytest.raises(InvalidRequest) as wrong:
            await ask(service.client, "echo", "say", Echo(text="x", by="y"), Echo)
        assert (wrong.value.error_code, wrong.value.param) == ("unknown_parameter", "by")
        with pytest.raises(TooLarge):
            await say("x" * 2**20)
        with pytest.raises(TooLarge) as answer:
            await say("grow")
        assert answer.value.error_code == "answer_too_large"


async def test_nobody_there_is_unavailable_at_once(service: Service) -> None:
    async with running(service):
        for owner, verb in (("nobody", "say"), ("echo", "sing")):
            with pytest.raises(Unavailable, match=f"{owner} does not answer"):
                await asyncio.wait_for(ask(service.client, owner, verb, None, Echo), 2)


async def test_bytes_that_are_no_request_are_answered_with_a_400(service: Service) -> None:
    async with running(service):
        for body in (b"", b"[]", b"\xff", b'{"body": 7}', b"{" * 5000):
            answer = json.loads((await service.client.request("finery.rpc.echo.say", body, timeout=5)).data)
            assert answer["status"] == 400, body


async def test_a_poison_message_is_laid_aside_with_its_place_and_holds_up_nobody(service: Service) -> None:
    heard: list[bytes] = []

    async def take(body: bytes, msg: Any) -> None:
        heard.append(Word.model_validate_json(body).text.encode())
        await msg.ack()

    subscribe_pull(service.broker, EVENTS.name, "finery.evt.>", Durable.DEPLOYER, take)
    async with running(service):
        for body in (b"\xff\x00", b'{"text": "good"}'):
            await service.jetstream.publish(SUBJECT, body)
        await until(lambda: heard)
        async with asyncio.timeout(5):
            while not (letters := await dead(service)):
                await asyncio.sleep(0.01)

    assert heard == [b"good"]
    assert (letters[0].stream, letters[0].seq, letters[0].subject, letters[0].deliveries) == (
        EVENTS.name, 1, SUBJECT, 1,
    )  # fmt: skip
    assert letters[0].reason.startswith("Word is not valid")


async def test_a_handler_that_fails_is_called_again_after_a_while(service: Service) -> None:
    tries: list[float] = []

    async def take(_body: bytes, msg: Any) -> None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) == 1:
            raise RuntimeError("not now")
        await msg.ack()

    subscribe_pull(service.broker, EVENTS.name, "finery.evt.>", Durable.DEPLOYER, take)
    async with running(service):
        await service.jetstream.publish(SUBJECT, b"{}")
        await until(lambda: len(tries) == 2)

    assert tries[1] - tries[0] >= 0.45


async def test_a_fact_is_applied_once_under_whatever_id_and_one_of_a_newer_peer_is_passed_over(
    service: Service, database_url: str
) -> None:
    database = Database(database_url, DELIVERY_METADATA)
    applied: list[int] = []

    def on_project(_tx: Transaction, event: ProjectCreated) -> None:
        applied.append(event.nounversion)

    service.database = database
    listen_to_facts(service.broker, "echo", Durable.DEPLOYER, {ProjectCreated: on_project}, database)

    def fact(event_id: str, version: int) -> bytes:
        view = ProjectView(id="prj_1", name="p", version=version, created_at=utc_now())
        kind = ProjectCreated.type_name()
        return ProjectCreated(
            id=event_id, type=kind, source="s", subject="project/prj_1", time=utc_now(), project="prj_1",
            nounversion=version, data=view,
        ).model_dump_json().encode()  # fmt: skip

    async with running(service):
        newer = json.dumps({"type": "io.finery.model.sung.v9"}).encode()
        for body in (newer, fact("evt_1", 1), fact("evt_1", 1), fact("evt_2", 1), fact("evt_3", 2)):
            await service.jetstream.publish(SUBJECT, body)
        await until(lambda: len(applied) == 2)
        assert await dead(service) == []

    assert applied == [1, 2]


class Holds:
    """All that somebody has; to spell it out takes for ever."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    def __repr__(self) -> str:
        raise AssertionError("spelled out")

    async def work(self, how: str) -> None:
        self.began.set()
        raise ValueError(how)


async def test_a_loop_is_named_without_spelling_out_what_it_holds(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    held = Holds()
    service.loops.append(partial(held.work, "now"))

    async with running(service):
        await held.began.wait()
        await until(lambda: any(record.message == "loop_failed" for record in caplog.records))

    failed = next(record for record in caplog.records if record.message == "loop_failed")
    assert failed.__dict__["loop"] == "Holds.work"
