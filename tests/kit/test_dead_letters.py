"""A message whose handler never succeeds is laid aside whole, with the reason, once; then replayed or dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from finery_contracts.errors import Conflict, NotFound, Unavailable
from finery_contracts.model import Request
from finery_contracts.streams import DEAD, EVENTS, INBOUND, Durable, consumer_of
from finery_kit import redelivery
from finery_kit.bus import subscribe_pull
from finery_kit.bus_init import bus_init
from finery_kit.db import utc_now
from finery_kit.dead import DeadLetters, Given, lay_aside, reason_of, subject_of
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import flushed, nats_server

SUBJECT = "finery.evt.prj_1.model.mdl_1.deleted"


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service whose broken handlers are called again at once."""
    monkeypatch.setattr(redelivery, "FIRST_DELAY_S", 0.001)
    with nats_server(tmp_path / "nats") as url:
        async with connected(url) as client:
            await bus_init(client)
        yield Service("broken", Settings(nats_url=url, home=tmp_path))


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


class Hearing:
    """A handler that fails until it is mended."""

    def __init__(self, service: Service, durable: Durable) -> None:
        found = consumer_of(durable)
        assert found is not None
        self.tries, self.heard, self.mended = 0, list[tuple[str, bytes]](), False
        subscribe_pull(service.broker, found[0].name, found[0].subjects[0], durable, self.take)

    async def take(self, body: bytes, msg: Any) -> None:
        self.tries += 1
        if not self.mended:
            raise RuntimeError("no luck with nats://me:geheim@host and fk-abcdefghijklmnop")
        self.heard.append((subject_of(msg.raw_message), body))
        await msg.ack()


async def letters(service: Service) -> list[Any]:
    return (await DeadLetters(service.jetstream).list()).data


async def one_letter(service: Service) -> Any:
    async with asyncio.timeout(20):
        while not (found := await letters(service)):
            await asyncio.sleep(0.02)
    return found[0]


async def test_after_the_last_permitted_try_the_message_is_laid_aside_whole_and_comes_no_more(service: Service) -> None:
    hearing = Hearing(service, Durable.DEPLOYER)
    async with running(service):
        await service.jetstream.publish(SUBJECT, b'{"a": 1}', headers={"traceparent": "00-1", "Nats-Msg-Id": "evt_1"})
        letter = await one_letter(service)
        await until(lambda: True)
        shown = await DeadLetters(service.jetstream).show(letter.id)
        info = await service.jetstream.consumer_info(EVENTS.name, Durable.DEPLOYER)

    assert hearing.tries == 12
    assert (letter.durable, letter.stream, letter.seq, letter.subject) == ("deployer", EVENTS.name, 1, SUBJECT)
    assert letter.deliveries == 12
    assert letter.reason == "RuntimeError: no luck with nats://me:…host and fk-abcdefgh…"
    assert letter.first_at <= letter.last_at <= utc_now()
    assert (shown.body, shown.headers) == ('{"a": 1}', {"traceparent": "00-1"})
    assert (info.num_ack_pending, info.num_pending) == (0, 0)


async def test_a_replay_reaches_only_the_consumer_that_gave_up_and_the_letter_is_gone(service: Service) -> None:
    hearing = Hearing(service, Durable.DEPLOYER)
    others: list[bytes] = []

    async def note(body: bytes, msg: Any) -> None:
        others.append(body)
        await msg.ack()

    subscribe_pull(service.broker, EVENTS.name, "finery.evt.>", Durable.NOTIFIER, note)
    async with running(service):
        await service.jetstream.publish(SUBJECT, b"{}")
        letter = await one_letter(service)
        hearing.mended = True
        replayed = await DeadLetters(service.jetstream).replay(letter.id)
        await until(lambda: hearing.heard)

        assert (replayed.durable, replayed.subject) == ("deployer", SUBJECT)
        assert hearing.heard == [(SUBJECT, b"{}")]
        assert others == [b"{}"]
        assert await letters(service) == []
        with pytest.raises(NotFound):
            await DeadLetters(service.jetstream).replay(letter.id)


async def test_a_replay_that_fails_again_is_a_new_letter(service: Service) -> None:
    Hearing(service, Durable.DEPLOYER)
    async with running(service):
        await service.jetstream.publish(SUBJECT, b"{}")
        first = await one_letter(service)
        await DeadLetters(service.jetstream).replay(first.id)
        second = await one_letter(service)

    assert second.id != first.id
    assert (second.seq, second.subject) == (2, SUBJECT)


async def test_a_replay_into_the_stream_that_acknowledges_to_nobody_keeps_the_project_in_the_subject(
    service: Service,
) -> None:
    hearing = Hearing(service, Durable.STUDIO_INBOUND)
    async with running(service):
        await service.client.publish("finery.in.prj_1.jöbs", b"{}")
        letter = await one_letter(service)
        hearing.mended = True
        await DeadLetters(service.jetstream).replay(letter.id)
        await until(lambda: hearing.heard)

    assert letter.stream == INBOUND.name
    assert hearing.heard == [("finery.in.prj_1.jöbs", b"{}")]


async def test_a_header_of_an_upstream_system_does_not_say_where_a_message_came_from(service: Service) -> None:
    hearing = Hearing(service, Durable.STUDIO_INBOUND)
    hearing.mended = True
    async with running(service):
        await service.client.publish("finery.in.prj_1.x", b"{}", headers={"Finery-Subject": "finery.in.prj_2.x"})
        await until(lambda: hearing.heard)

    assert hearing.heard == [("finery.in.prj_1.x", b"{}")]


async def test_the_same_message_is_listed_once_however_often_it_is_laid_aside(service: Service) -> None:
    given = Given("deployer", EVENTS.name, 7, SUBJECT, "because", 12, utc_now(), b"{}")
    async with running(service):
        for _ in range(3):
            await lay_aside(service.jetstream, given)

        assert [letter.seq for letter in await letters(service)] == [7]


async def test_dropping_removes_for_good_and_twice_is_not_found(service: Service) -> None:
    async with running(service):
        for seq in (7, 8):
            await lay_aside(service.jetstream, Given("d", EVENTS.name, seq, SUBJECT, "x", 1, utc_now(), b"{}"))
        dead = DeadLetters(service.jetstream)
        first, second = await letters(service)
        await dead.drop(first.id)

        assert await letters(service) == [second]
        for action in (dead.drop, dead.show, dead.replay):
            with pytest.raises(NotFound):
                await action(first.id)
        with pytest.raises(NotFound):
            await dead.show(0)


async def test_letters_are_listed_page_by_page_and_by_consumer(service: Service) -> None:
    async with running(service):
        await service.jetstream.publish(
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.x.y", b"{}", stream=DEAD.name
        )  # what the server itself says is no letter
        for seq in range(1, 6):
            durable = "notifier" if seq % 2 else "deployer"
            await lay_aside(service.jetstream, Given(durable, EVENTS.name, seq, SUBJECT, "x", 1, utc_now(), b"{}"))
        dead = DeadLetters(service.jetstream)
        first = await dead.list(limit=2)
        rest = await dead.list(limit=10, after=first.next)
        mine = await dead.list(durable="deployer")

    assert [letter.seq for letter in (*first.data, *rest.data)] == [1, 2, 3, 4, 5]
    assert (first.has_more, rest.has_more) == (True, False)
    assert [letter.seq for letter in mine.data] == [2, 4]


async def test_a_message_too_large_for_our_headers_stays_in_its_stream_and_is_read_there(service: Service) -> None:
    big = b"x" * (2**20 - 30)
    async with running(service):
        await service.client.publish("finery.in.prj_1.x", big)
        await flushed(service.client)
        await lay_aside(
            service.jetstream, Given("studio-inbound", INBOUND.name, 1, "finery.in.prj_1.x", "x", 1, utc_now(), big)
        )
        (letter,) = await letters(service)

        assert (await DeadLetters(service.jetstream).show(letter.id)).body == big.decode()


async def test_a_letter_without_bytes_cannot_be_replayed(service: Service) -> None:
    async with running(service):
        await lay_aside(service.jetstream, Given("deployer", EVENTS.name, 9, SUBJECT, "gone", 1, utc_now(), None))
        (letter,) = await letters(service)

        with pytest.raises(Conflict, match="bytes"):
            await DeadLetters(service.jetstream).replay(letter.id)


async def test_a_database_that_is_away_costs_no_try(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redelivery, "OUTAGE_LOOK_S", 0.01)
    tries: list[int] = []

    async def take(_body: bytes, msg: Any) -> None:
        tries.append(msg.raw_message.metadata.num_delivered)
        if len(tries) < 40:
            raise Unavailable("full")
        await msg.ack()

    subscribe_pull(service.broker, EVENTS.name, "finery.evt.>", Durable.DEPLOYER, take)
    async with running(service):
        await service.jetstream.publish(SUBJECT, b"{}")
        await until(lambda: len(tries) == 40)

        assert set(tries) == {1}
        assert await letters(service) == []


def test_a_reason_names_type_and_words_and_no_value_that_was_sent() -> None:
    class Word(Request):
        text: int

    try:
        Word.model_validate({"text": "my private prompt"})
    except ValueError as fault:
        told = reason_of(fault)
    sql = IntegrityError(
        "insert into t values (?)", ("my private prompt",), ValueError("UNIQUE failed\nDETAIL: prompt")
    )

    assert told.startswith("Word is not valid: text: Input should be a valid integer")
    assert "prompt" not in told
    assert reason_of(sql) == "IntegrityError: UNIQUE failed"
    assert len(reason_of(ValueError("x" * 5000))) <= 600
